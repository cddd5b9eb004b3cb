"""The commands that install pwserver on a machine: the units for systemd, and shell completion."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from pwserver.cli import output
from pwserver.errors import ExitCode

_SERVICE = """\
# pwserver as a service of systemd. Once, as root:
#   useradd --system --home-dir /var/lib/pwserver --shell /usr/sbin/nologin pwserver
#   install -d -m 700 -o pwserver -g pwserver /var/lib/pwserver
#   install -d -m 700 /etc/pwserver
#   {program} setup --database /var/lib/pwserver/user_data.db
#   mv /var/lib/pwserver/user_data.key /etc/pwserver/user_data.key
#   {program} systemd-unit > /etc/systemd/system/pwserver.service
#   systemctl daemon-reload && systemctl enable --now pwserver
# Settings may be in /var/lib/pwserver/pwserver.toml, which must belong to root or to pwserver.

[Unit]
Description=Password book for applications
After=network.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} serve --list-users none
# Reads certificates and settings again. `systemctl kill --kill-whom=main -s USR2 pwserver` starts
# the program itself again, a newer one too, and no client notices.
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
WatchdogSec=30
TimeoutStopSec=30

User=pwserver
Group=pwserver
StateDirectory=pwserver
StateDirectoryMode=0700
WorkingDirectory=/var/lib/pwserver
UMask=0077
{credentials}
# Keys and passwords never reach a swap, nor a core file.
LimitMEMLOCK=infinity
LimitCORE=0
MemorySwapMax=0
LimitNOFILE=65536

# Leave these two out if other machines are to reach the service (which then needs TLS).
IPAddressDeny=any
IPAddressAllow=localhost

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
PrivateTmp=yes
PrivateDevices=yes
PrivateIPC=yes
PrivateMounts=yes
# PrivateUsers= would hide from the audit record who is at the Unix socket.
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
DevicePolicy=closed
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

_KEY = "LoadCredential=pwserver.key:/etc/pwserver/user_data.key\n"

_PASSPHRASE = """\
# systemd-creds encrypt --name=pwserver.passphrase - /etc/pwserver/passphrase.cred
LoadCredentialEncrypted=pwserver.passphrase:/etc/pwserver/passphrase.cred
"""

_SOCKET = """\
# The addresses of pwserver.service: systemd listens there, and starts the service for the first
# client. The settings `host`, `port` and `unix` do not count then.

[Unit]
Description=Addresses of the password book

[Socket]
ListenStream=127.0.0.1:12345
# ListenStream=/run/pwserver.sock
# SocketMode=0660
Service=pwserver.service

[Install]
WantedBy=sockets.target
"""


def systemd_unit(
    *,
    sealed: Annotated[
        bool, Parameter(help="The key file is sealed: add a credential for its passphrase.")
    ] = False,
    socket: Annotated[
        bool, Parameter(help="Print the unit of the socket, for socket activation, instead.")
    ] = False,
) -> ExitCode:
    """Print a hardened unit for systemd; its first lines say how to install it.

    The key file is a credential: the service itself cannot read /etc/pwserver.
    """
    program = _program()
    if any(program.startswith(f"{folder}/") for folder in ("/home", "/root", "/run/user")):
        output.tell(
            f"The unit hides the home folders, and {program.split()[0]} is in one: install "
            "pwserver elsewhere, for example in /opt/pwserver."
        )
    credentials = _KEY + (_PASSPHRASE if sealed else "")
    print(_SOCKET if socket else _SERVICE.format(program=program, credentials=credentials), end="")
    return ExitCode.OK


def _program() -> str:
    """Return the command that starts this program, with an absolute path."""
    script = Path(sys.executable).with_name("pwserver")
    if script.exists():
        return shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m pwserver"


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell.")],
    /,
    *,
    install: Annotated[
        bool, Parameter(help="Install it for this user, instead of printing it.")
    ] = False,
) -> ExitCode:
    """Print what lets a shell complete commands and flags of pwserver, or install it.

    Bash and zsh get a line in .bashrc or .zshrc that loads it. It works in the next shell.
    """
    app = _app()
    if install:
        path = app.install_completion(shell=shell)
        output.tell(f"Installed {path}; start a new {shell} to use it.")
    else:
        print(app.generate_completion(shell=shell))
    return ExitCode.OK


def _app() -> App:
    from pwserver.cli.main import app  # noqa: PLC0415 - which imports this file

    return app
