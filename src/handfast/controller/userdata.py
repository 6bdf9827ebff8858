"""
Documents for cloud-init, with which a new instance starts its agent: its user-data in a file, and a unit that reads it.

The document is a secret while the instance's own is. What is in it stays readable on the machine, to root; by then it
is worth nothing.
"""

from __future__ import annotations

import textwrap

from handfast.core.instancedata import FILE, InstanceData, written
from handfast.ssh.userdata import as_yaml

STATE = "/var/lib/handfast-agent"
UNIT = "handfast-agent.service"
_UNIT = f"""[Unit]
Description=Handfast's agent: does for this machine what its controller asks, and its policy allows
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart=/usr/local/bin/handfast agent run --user-data {FILE} --state {STATE}
ExecReload=/bin/sh -c 'kill -HUP $MAINPID'
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def cloud_config(data: InstanceData) -> str:
    """Return the document of a machine whose image has Handfast; a secret."""
    text = (
        f"The agent of {data.instance}, which is introduced when it boots for the first time. Made by `handfast"
        " instance add`."
        f" A secret until {data.line.not_after:%Y-%m-%d %H:%M}Z: whoever reads it may pose as this instance,"
        " until it has been introduced itself. Handfast has to be in the image: a checkout in /opt/handfast, and"
        " /usr/local/bin/handfast a link to its ./handfast, which has been run once (--version)."
    )
    head = textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    content = {
        "write_files": [
            {"path": FILE, "owner": "root:root", "permissions": "0600", "content": written(data)},
            {
                "path": f"/etc/systemd/system/{UNIT}",
                "owner": "root:root",
                "permissions": "0644",
                "content": _UNIT,
            },
        ],
        # It does not wait: the unit itself comes after the network.
        "runcmd": [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", "--no-block", UNIT]],
    }
    return "#cloud-config\n" + "".join(f"# {line}\n" for line in head) + as_yaml(content)
