"""
Documents for cloud-init, with which a new instance starts its agent: its user-data in a file, and units.

The document is a secret while the instance's own is. What is in it stays readable on the machine, to root, and for many
clouds to every process there: once the instance was introduced nobody can pose as it any more, but until the secret's
time is over whoever has it can raise an alarm about it.

An agent that listens has its socket from systemd, from the boot on and while the agent is down or starts anew: else any
user of the machine could take the port then, and have the instance quarantined.
"""

from __future__ import annotations

import textwrap

from handfast.core.instancedata import FILE, InstanceData, written
from handfast.ssh.userdata import as_yaml

STATE = "/var/lib/handfast-agent"
UNIT = "handfast-agent.service"
SOCKET = "handfast-agent.socket"
# StartLimitIntervalSec=0: a service that systemd has given up has its socket closed.
# KillMode=process: the agent ends, or waits for, the programs that it runs, and what one of them has left running is
# a service's, which an agent that starts anew must not take along.
# MemoryMax: the agent's own 60 MB, four configurations of 4 MiB in six forms each, four artifacts that come, 16 answers
# of 2 MiB in three forms, and as much again for programs such as `nginx -t`.
_UNIT = f"""[Unit]
Description=Handfast's agent: does for this machine what its controller asks, and its policy allows
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/usr/local/bin/handfast agent run --user-data {FILE} --state {STATE}
ExecReload=/bin/sh -c 'kill -HUP $MAINPID'
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2 3
KillMode=process
MemoryMax=512M

[Install]
WantedBy=multi-user.target
"""
_SOCKET = """[Unit]
Description=Where Handfast's agent listens, also while it does not run: nobody else can

[Socket]
ListenStream={address}
FileDescriptorName=agent
FreeBind=true
BindIPv6Only=both

[Install]
WantedBy=sockets.target
"""


def cloud_config(data: InstanceData) -> str:
    """Return the document of a machine whose image has Handfast; a secret."""
    text = (
        f"The agent of {data.instance}, which is introduced when it boots for the first time. Made by `handfast"
        " instance add`."
        f" A secret until {data.line.not_after:%Y-%m-%d %H:%M}Z: whoever reads it may pose as this instance,"
        " until it has been introduced itself, and may raise an alarm about it afterwards. Handfast has to be in the"
        " image: a checkout in /opt/handfast, and /usr/local/bin/handfast a link to its ./handfast, which has been"
        " run once (--version)."
    )
    head = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    units = {UNIT: _UNIT} if data.listens is None else {SOCKET: _SOCKET.format(address=data.listens), UNIT: _UNIT}
    content = {
        "write_files": [
            {"path": FILE, "owner": "root:root", "permissions": "0600", "content": written(data)},
            *(
                {"path": f"/etc/systemd/system/{name}", "owner": "root:root", "permissions": "0644", "content": text}
                for name, text in units.items()
            ),
        ],
        # It does not wait: the unit itself comes after the network.
        "runcmd": [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", "--no-block", *units]],
    }
    return "#cloud-config\n" + "".join(f"# {line}\n" for line in head) + as_yaml(content)
