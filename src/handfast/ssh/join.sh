#!/bin/sh
# Joins with an invitation, which publishes this machine's SSH host keys as well. Made by `handfast userdata`.
set -u
umask 077
cd /run/handfast/join || exit 1
trap 'rm -rf /run/handfast/join' EXIT # and with it the invitation
trap 'exit 1' HUP INT TERM

fail() {
    echo "handfast: $*" >&2
    exit 1
}

command -v handfast >/dev/null || fail "this image has no handfast in $PATH: put it there, or use another form"
tries=15 delay=1
until handfast join --ssh --invitation-file invitation; do
    code=$? tries=$((tries - 1))
    # 4 is: no answer. Anything else says why by itself, and the same invitation will not do better.
    if [ $code -ne 4 ] || [ $tries -eq 0 ]; then
        fail "this machine has not joined"
    fi
    sleep $delay
    [ $delay -ge 60 ] || delay=$((delay * 2))
done
