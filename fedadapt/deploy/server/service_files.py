"""Files for those who run services: units of systemd, and a compose file for Docker."""

from fedadapt.deploy.folder import Deployment, private
from fedadapt.files import write_atomically

SERVER_UNIT = """\
# sudo cp fedadapt-server.service /etc/systemd/system
# sudo systemctl enable --now fedadapt-server
[Unit]
Description=fedadapt: the server of a federation
Wants=network-online.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
ExecStart={command} deploy server {folder}
Restart=always
RestartSec=15
User=fedadapt
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectHome=read-only
ProtectSystem=strict
ReadWritePaths={folder}

[Install]
WantedBy=multi-user.target
"""

CLIENT_UNIT = """\
# On a client: adapt the paths, then
# sudo cp fedadapt-client.service /etc/systemd/system
# sudo systemctl enable --now fedadapt-client
[Unit]
Description=fedadapt: a client of a federation
Wants=network-online.target time-sync.target
After=network-online.target time-sync.target
StartLimitIntervalSec=0

[Service]
ExecStart=/opt/fedadapt/bin/fedadapt deploy client /etc/fedadapt/client.tar \\
    --images /srv/pictures --home /var/lib/fedadapt --wait
# Also after an exit with status 0: a SuperNode whose clock is wrong ends so, without a reason.
Restart=always
RestartSec=15
User=fedadapt
StateDirectory=fedadapt
StateDirectoryMode=0700
UMask=0077
MemoryMax=75%
NoNewPrivileges=yes
PrivateTmp=yes
ProtectHome=read-only
ProtectSystem=strict
ReadWritePaths=/var/lib/fedadapt

[Install]
WantedBy=multi-user.target
"""

COMPOSE = """\
# docker compose up -d     the server; its folder is this one
services:
  server:
    image: fedadapt-server
    command: ["deploy", "server", "/deployment"]
    volumes: ["{folder}:/deployment"]
    ports: ["{port}:{port}"]
    restart: always
    read_only: true
    tmpfs: ["/tmp"]
    cap_drop: ["ALL"]
    security_opt: ["no-new-privileges:true"]
    stop_grace_period: 30s
"""


def write_service_files(deployment: Deployment) -> None:
    """Write the units and the compose file into the folder of the deployment."""
    from fedadapt.deploy.processes import program

    systemd = private(deployment.folder / "systemd")
    server = SERVER_UNIT.format(command=program("fedadapt"), folder=deployment.folder)
    compose = COMPOSE.format(folder=deployment.folder, port=deployment.port)
    for path, text in (
        (systemd / "fedadapt-server.service", server),
        (systemd / "fedadapt-client.service", CLIENT_UNIT),
        (deployment.folder / "compose.yaml", compose),
    ):
        write_atomically(path, text.encode(), mode=0o600)
