#!/bin/sh
# Uploads this machine's SSH host keys to an address that takes one upload, signed by each key and by a one-time key.
# Needs sh, ssh-keygen and curl. Made by `handfast userdata`; docs/protocols/host-keys.md says what an upload is.
set -eu
umask 077
cd /run/handfast/upload
trap 'rm -rf /run/handfast/upload' EXIT # and with it the one-time key and the address
trap 'exit 1' HUP INT TERM

say() { printf 'handfast: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}
# What others say, in one line: on the console, several could pass for what cloud-init says of the host keys.
answer() { head -c 500 answer | LC_ALL=C tr -c ' -~' ' '; }
sign() { ssh-keygen -Y sign -n hostkeys@handfast -f "$1" 2>/dev/null; }

for program in ssh-keygen curl; do
    command -v $program >/dev/null || fail "this image has no $program, so nobody learns this machine's host keys"
done

# --- what is signed: the head was written for us, with the machine's name ---
instance=$(cat /run/cloud-init/.instance-id 2>/dev/null || cat /var/lib/cloud/data/instance-id 2>/dev/null || echo none)
printf 'instance %s\n' "$(printf %s "$instance" | LC_ALL=C tr -c 'A-Za-z0-9._:@/+-' _ | cut -c 1-128)" >> document
set --
for public in /etc/ssh/ssh_host_*_key.pub; do
    [ -r "$public" ] || continue
    read -r algorithm key _ < "$public" || [ -n "$key" ]
    [ "$algorithm" != ssh-dss ] || continue # some cloud-init makes one; no sshd of these days has it
    if echo test | sign "${public%.pub}" >/dev/null; then
        printf 'key %s %s\n' "$algorithm" "$key" >> document
        set -- "$@" "${public%.pub}"
    else
        say "$public is left out: it cannot sign"
    fi
done
[ $# -gt 0 ] || fail "no host key in /etc/ssh can sign"

# --- who signs it: the one-time key, then each host key in its turn ---
cp document signed
for key in one-time-key "$@"; do
    sign "$key" < document >> signed
done

# --- the upload: it cannot replace an earlier one, as If-None-Match is signed with the address ---
tries=0 delay=1
while :; do
    tries=$((tries + 1))
    status=$(curl --disable --config curl --upload-file signed --output answer --write-out '%{http_code}') || :
    case $status in
        2??)
            say "uploaded $# host keys"
            exit 0
            ;;
        412)
            [ $tries -gt 1 ] || fail "SOMEBODY ELSE HAS UPLOADED HOST KEYS in this machine's name: tell the operator"
            fail "host keys are there: this machine's, whose answer was lost, or somebody else's: compare fingerprints"
            ;;
        408 | 409 | 425 | 429 | 5?? | 000 | '') ;; # busy (409: with another upload, says S3), or no answer
        *) fail "the upload was refused with status $status: $(answer)" ;;
    esac
    [ $tries -lt 15 ] || fail "no upload in $tries tries"
    sleep $delay
    [ $delay -ge 60 ] || delay=$((delay * 2))
done
