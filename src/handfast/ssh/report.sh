#!/bin/sh
# Reports this machine's SSH host keys to the registrar, with the form that cloud-init's phone_home sends.
# Needs sh and curl, which trusts the one root that lies beside this script. Made by `handfast userdata`.
set -eu
umask 077
cd /run/handfast/report
trap 'rm -rf /run/handfast/report' EXIT # and with it the one-time address
trap 'exit 1' HUP INT TERM

say() { printf 'handfast: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# What others say, in one line: on the console, several could pass for what cloud-init says of the host keys.
answer() { head -c 500 answer | LC_ALL=C tr -c ' -~' ' '; }

command -v curl >/dev/null || fail "this image has no curl, so nobody learns this machine's host keys"
set --
for public in /etc/ssh/ssh_host_*_key.pub; do
    [ -r "$public" ] || fail "no host key in /etc/ssh"
    [ "$public" != /etc/ssh/ssh_host_dsa_key.pub ] || continue # some cloud-init makes one; no sshd of these days has it
    name=${public#/etc/ssh/ssh_host_}
    set -- "$@" --data-urlencode "pub_key_${name%_key.pub}@$public"
done
cat /run/cloud-init/.instance-id >instance 2>/dev/null || cat /var/lib/cloud/data/instance-id >instance 2>/dev/null || :
hostname >name
hostname -f >fqdn 2>/dev/null || cp name fqdn

tries=0 delay=1
while :; do
    tries=$((tries + 1))
    status=$(
        curl --disable --config curl --output answer --write-out '%{http_code}' "$@" \
            --data-urlencode instance_id@instance --data-urlencode hostname@name --data-urlencode fqdn@fqdn
    ) || :
    case $status in
        2??)
            say "reported the host keys"
            exit 0
            ;;
        408 | 425 | 429 | 5?? | 000 | '') ;; # busy, or no answer
        409) fail "SOMEBODY ELSE HAS REPORTED HOST KEYS in this machine's name: tell the operator" ;;
        *) fail "the report was refused with status $status: $(answer)" ;;
    esac
    [ $tries -lt 15 ] || fail "no answer in $tries tries"
    sleep $delay
    [ $delay -ge 60 ] || delay=$((delay * 2))
done
