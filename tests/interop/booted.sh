#!/bin/bash
# What the administrator of a machine that runs systemd does with Handfast, as docs/operations.md has it.
# Runs in the machine that test_systemd.py boots. The last line says "passed", or which command did not do as it must.
set -Eeuo pipefail
trap 'echo "failed in line $LINENO: $BASH_COMMAND"; journalctl --no-pager --output=short-precise | tail -n 60' ERR

readonly DATA=/var/lib/handfast OUT=/etc/handfast/identity
readonly RENEW='handfast-renew-etc-handfast-identity'
readonly HTTPS='https://127.0.0.1:7443/readyz' CRL='http://127.0.0.1:7480/crl/issuing-1.crl'

show() { systemctl show --value --property "$2" "$1"; }

# One attempt. Who it is that answers is not the question here.
fetch() {
    python3 -c 'import ssl, sys, urllib.request as u
u.urlopen(sys.argv[1], timeout=10, context=ssl._create_unverified_context()).read()' "$1"
}

# For what systemd says only when it is asked.
until_true() {
    local end=$((SECONDS + 20))
    until "$@"; do ((SECONDS < end)) || return 1; sleep 0.05; done
}

administer() { runuser -u handfast -- env HANDFAST_DATA=$DATA handfast "$@"; }

settings() {
    printf '[registrar]\naddresses = ["127.0.0.1:7443"]\n[lifetime]\nserver = "%s"\n' "$1" > $DATA/config.toml
}

drop_in() {
    mkdir -p "/etc/systemd/system/$1.d"
    cat > "/etc/systemd/system/$1.d/test.conf"
    systemctl daemon-reload
}

a_notified_start() {
    useradd --system --home-dir $DATA handfast
    install -d -m 700 -o handfast -g handfast $DATA
    settings 24h
    (umask 077; mkdir /etc/handfast; head -c 32 /dev/urandom | base64 > /etc/handfast/passphrase)
    systemctl daemon-reload

    systemctl start handfast.service
    fetch "$HTTPS"  # at once: "active" came after READY=1
    fetch "$CRL"
    [[ $(show handfast.service ActiveState) == active ]]
    [[ $(show handfast.service StatusText) == 'serving on '* ]]
    [[ $(stat -c '%U %a' $DATA/authority/issuing/1.key) == 'handfast 600' ]]
    grep -q ENCRYPTED $DATA/authority/issuing/1.key  # LoadCredential= brought the passphrase
}

an_obstructed_start() {
    # Type=notify: without READY=1 the start has failed, whatever the process does.
    systemctl stop handfast.service
    echo 'mistake = 1' >> $DATA/config.toml
    systemctl start handfast.service || [[ $? == 1 ]]
    [[ $(show handfast.service ActiveState) != active ]]
    systemctl stop handfast.service  # it would go on trying
    settings 24h
    systemctl start handfast.service
    fetch "$HTTPS"
}

reloaded() { journalctl --quiet --unit handfast.service --since "@$1" --grep '"event":"?.*reloaded' > /dev/null; }

a_reload() {
    local pid before
    pid=$(show handfast.service MainPID) before=$EPOCHREALTIME
    settings 1m
    systemctl reload handfast.service
    until_true reloaded "$before"
    [[ $(show handfast.service ActiveState) == active ]]
    [[ $(show handfast.service MainPID) == "$pid" ]]
}

a_timer_is_installed() {
    administer invite web1.lan | handfast join
    handfast renew --out $OUT --install --exec 'touch /run/renewed; echo "$HANDFAST_NAME 100%" > /run/hook'
    systemctl list-timers --no-pager | grep $RENEW.timer
    systemctl is-enabled $RENEW.timer

    systemctl start $RENEW.service  # by hand, long before it is due: the reload has made it a minute
    [[ $(show $RENEW.service Result) == success ]]
    [[ ! -e /run/renewed ]]
}

fed() { (($(show handfast.service WatchdogTimestampMonotonic) > $1)); }

restarted() { [[ $(show handfast.service NRestarts) == 1 && $(show handfast.service ActiveState) == active ]]; }

a_watchdog() {
    local pid
    drop_in handfast.service <<< $'[Service]\nWatchdogSec=2'
    systemctl restart handfast.service
    pid=$(show handfast.service MainPID)
    until_true fed $(($(show handfast.service ActiveEnterTimestampMonotonic) + 4000000))
    [[ $(show handfast.service MainPID) == "$pid" ]]
    kill -STOP "$pid"  # it hangs
    until_true restarted
    journalctl --quiet --unit handfast.service --grep 'Watchdog timeout' > /dev/null
    fetch "$HTTPS"
    rm -r /etc/systemd/system/handfast.service.d
    systemctl daemon-reload
}

socket_activation() {
    systemctl stop handfast.service
    systemctl enable --now handfast-https.socket handfast-crl.socket
    [[ $(show handfast.service ActiveState) == inactive ]]
    fetch "$CRL"  # starts it, and is answered
    [[ $(show handfast.service ActiveState) == active ]]
    fetch "$HTTPS"
    systemctl restart --no-block handfast.service
    fetch "$HTTPS"  # nobody is refused meanwhile
    systemctl restart handfast.service
    fetch "$HTTPS"
}

renewed() { [[ -e /run/renewed && $(show $RENEW.service ActiveState) == inactive ]]; }

a_renewal_by_the_timer() {
    local serial due
    serial() { handfast status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["serial"])'; }
    serial=$(serial)
    due=$(handfast status --json | python3 -c 'import datetime, json, sys
print(datetime.datetime.fromisoformat(json.load(sys.stdin)["due_at"]).timestamp())')
    python3 -c 'import sys, time; time.sleep(max(0, float(sys.argv[1]) - time.time()))' "$due"

    # The timer's own next time is minutes away.
    systemctl stop $RENEW.timer
    drop_in $RENEW.timer <<< $'[Timer]\nOnActiveSec=0\nRandomizedDelaySec=0\nAccuracySec=1ms'
    systemctl start $RENEW.timer
    until_true renewed
    [[ $(show $RENEW.service Result) == success ]]
    [[ $(< /run/hook) == 'web1.lan 100%' ]]
    [[ $(serial) != "$serial" ]]
}

# How many certificates sshd shows for its key of this kind.
shown() { ssh-keyscan -c -t "$1" 127.0.0.1 2> /dev/null | grep -c "$1-cert-v01@openssh.com" || true; }

# The machine's own sshd, with the certificates of another joining, and a timer for those.
certificates_in_sshd() {
    local out=/etc/handfast/web2 unit='handfast-renew-etc-handfast-web2' pid
    systemctl start ssh.service
    pid=$(show ssh.service MainPID)
    [[ $(shown ssh-ed25519) == 0 ]]
    administer invite web2.lan | handfast join --out $out --ssh --install --trust-users
    [[ $(shown ssh-ed25519) == 1 ]]
    [[ $(shown ecdsa-sha2-nistp256) == 1 ]]
    [[ $(show ssh.service MainPID) == "$pid" ]]  # reloaded, and not started anew
    systemctl is-enabled $unit.timer

    # What was taken away, the timer's service puts back; and sshd has it.
    rm /etc/ssh/sshd_config.d/10-handfast.conf
    systemctl reload ssh.service
    systemctl start $unit.service
    [[ $(show $unit.service Result) == success ]]
    [[ $(shown ssh-ed25519) == 1 ]]
    handfast renew --out $out --ssh --uninstall
    [[ $(shown ssh-ed25519) == 0 ]]
    [[ $(show ssh.service MainPID) == "$pid" ]]
}

for story in a_notified_start an_obstructed_start a_reload a_timer_is_installed a_watchdog socket_activation \
    a_renewal_by_the_timer certificates_in_sshd; do
    echo "$SECONDS s: $story"
    $story
done
echo passed
