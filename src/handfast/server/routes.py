"""Every route, with what it takes and gives: the router, /openapi.json and the metrics' labels read this one table."""

from __future__ import annotations

from dataclasses import dataclass

from handfast import introducers
from handfast.core import views, wire
from handfast.core.approvals import ApprovalRow, ApprovalView, DecideRequest
from handfast.core.challenge import NONCE_PATH, TOKEN_PATH, Challenge, Parameters, Proof, TokenAnswer
from handfast.core.openid import Providers
from handfast.core.vantage import PATH as LOOK_PATH
from handfast.core.vantage import LookRequest, SeenAnswer
from handfast.core.vouched import Signature
from handfast.introducers.ssh_pop import SshRevocation
from handfast.server import approvals, browse, certificates, challenge, hosts, krl, openid, operators, public, vantage
from handfast.server.state import Handler
from handfast.ssh import snapshot
from handfast.ssh.krl import CONTENT_PATH, SIGNATURE_PATH

Shape = type | str | tuple[type, ...]  # JSON of a type or one of several, or a media type


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint. ``operator`` demands an operator credential; ``plain`` also serves it over plain HTTP."""

    method: str
    path: str
    handler: Handler
    gives: Shape
    takes: Shape | None = None
    operator: bool = False
    plain: bool = False
    query: tuple[str, ...] = ()


_EVIDENCE = tuple(half.evidence for half in introducers.known().values() if half.native)
_SSH_EVIDENCE = tuple(half.evidence for half in introducers.known_for_certificates().values())
_PEM = "application/pem-certificate-chain"

ROUTES = (
    Route(method="GET", path="/v1/hello", handler=public.hello, gives=wire.Hello),
    Route(method="GET", path="/v1/methods", handler=public.methods, gives=public.Methods),
    Route(
        method="POST",
        path="/v1/introductions/{method}",
        handler=public.introduce,
        takes=_EVIDENCE,
        gives=wire.IntroductionAnswer,
    ),
    Route(
        method="POST",
        path="/v1/invitations",
        handler=operators.invite,
        takes=views.InviteRequest,
        gives=views.InviteAnswer,
        operator=True,
    ),
    Route(
        method="DELETE",
        path="/v1/invitations/{key_id}",
        handler=operators.cancel,
        gives=operators.Cancelled,
        operator=True,
    ),
    Route(
        method="GET",
        path="/v1/machines",
        handler=operators.machines,
        gives=list[views.MachineView],
        operator=True,
        query=("after",),
    ),
    Route(method="GET", path="/v1/machines/{name}", handler=operators.machine, gives=views.MachineView, operator=True),
    Route(method="GET", path="/v1/machines/{name}/ssh", handler=hosts.host, gives=views.HostView),
    Route(
        method="GET",
        path="/machines",
        handler=browse.machines_page,
        gives="text/html",
        query=("after", "search"),
    ),
    Route(method="GET", path="/machines/{name}", handler=browse.machine_page, gives="text/html"),
    Route(method="GET", path="/machines/{name}/qr.svg", handler=browse.machine_qr, gives="image/svg+xml"),
    Route(method="GET", path="/static/{file}", handler=browse.page_file, gives="text/css"),
    Route(
        method="GET", path="/v1/ssh/hosts", handler=hosts.hosts, gives=list[views.HostView], query=("after", "search")
    ),
    Route(method="GET", path="/v1/ssh/lookup", handler=hosts.lookup, gives=views.HostView, query=("host", "port")),
    Route(method="GET", path=snapshot.CONTENT_PATH, handler=hosts.snapshot_content, gives="text/plain"),
    Route(method="GET", path=snapshot.SIGNATURE_PATH, handler=hosts.snapshot_signature, gives=Signature),
    Route(
        method="POST",
        path="/v1/ssh/certificates/{method}",
        handler=certificates.certify,
        takes=_SSH_EVIDENCE,
        gives=wire.CertificatesAnswer,
    ),
    Route(method="GET", path="/v1/ssh/providers", handler=openid.providers, gives=Providers),
    Route(
        method="POST",
        path="/v1/ssh/revocations",
        handler=certificates.revoke_certificate,
        takes=SshRevocation,
        gives=wire.SshRevokedAnswer,
    ),
    Route(
        method="POST",
        path=NONCE_PATH,
        handler=challenge.hostkey_nonce,
        takes=Parameters,
        gives=Challenge,
    ),
    Route(method="POST", path=TOKEN_PATH, handler=challenge.hostkey_token, takes=Proof, gives=TokenAnswer),
    Route(method="GET", path=CONTENT_PATH, handler=krl.content, gives=krl.MEDIA_TYPE),
    Route(method="GET", path=SIGNATURE_PATH, handler=krl.signature, gives=Signature),
    Route(method="POST", path=LOOK_PATH, handler=vantage.look, takes=LookRequest, gives=SeenAnswer),
    Route(
        method="POST",
        path="/v1/ssh/phone-home/{token}",
        handler=hosts.phone_home,
        takes="application/x-www-form-urlencoded",
        gives="application/json",
    ),
    Route(method="GET", path="/.well-known/ssh-known-hosts", handler=hosts.known_hosts, gives="text/plain"),
    Route(
        method="GET",
        path="/v1/ssh/certificates",
        handler=operators.certificates,
        gives=list[views.CertificateView],
        operator=True,
    ),
    Route(
        method="POST",
        path="/v1/revocations",
        handler=operators.revoke,
        takes=views.RevokeRequest,
        gives=views.RevokeAnswer,
        operator=True,
    ),
    Route(
        method="GET",
        path="/v1/approvals",
        handler=approvals.approvals,
        gives=list[ApprovalRow],
        operator=True,
        query=("all",),
    ),
    Route(
        method="GET",
        path="/v1/approvals/{approval_id}",
        handler=approvals.approval,
        gives=ApprovalView,
        operator=True,
    ),
    Route(
        method="POST",
        path="/v1/approvals/{approval_id}",
        handler=approvals.decide,
        takes=DecideRequest,
        gives=ApprovalView,
        operator=True,
    ),
    Route(method="GET", path="/v1/log/checkpoint", handler=operators.checkpoint, gives="text/plain", operator=True),
    Route(
        method="GET",
        path="/v1/log/entries",
        handler=operators.entries,
        gives=operators.Entries,
        operator=True,
        query=("start",),
    ),
    Route(method="GET", path="/roots.pem", handler=public.roots, gives=_PEM),
    Route(method="GET", path="/root/{pin}", handler=public.root, gives=_PEM),
    # Only the list over plain HTTP: it is signed. A root from there would invite trust that nothing supports.
    Route(method="GET", path="/crl/{issuer}.crl", handler=public.crl, gives="application/pkix-crl", plain=True),
    Route(method="GET", path="/healthz", handler=public.alive, gives=public.Health),
    Route(method="GET", path="/livez", handler=public.alive, gives=public.Health),
    Route(method="GET", path="/readyz", handler=public.ready, gives=public.Health),
    Route(method="GET", path="/metrics", handler=operators.metrics, gives="text/plain"),
    Route(method="GET", path="/version", handler=public.version, gives=public.Version),
)
