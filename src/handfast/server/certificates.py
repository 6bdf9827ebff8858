"""SSH certificates over HTTPS: asked for with evidence, and taken back by the key in one."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from handfast.core import wire
from handfast.core.flow import Channel, Evidence, SshAnswer, SshFinding
from handfast.core.sshcert import Kind
from handfast.errors import Fault
from handfast.introducers import ssh_pop
from handfast.server import openid, public
from handfast.server.state import Call, State


async def certify(call: Call) -> web.Response:
    """Ask for SSH certificates: evidence in, one certificate for each key out."""
    answer = await certified(call, call.request.match_info["method"])
    return public.json(
        wire.CertificatesAnswer(
            certificates=[each.certificate for each in answer.credentials],
            host_ca=answer.host_ca.blob,
            user_ca=answer.user_ca.blob,
            trust=list(answer.trust),
            time=answer.time.isoformat(),
            signature=answer.proof,
        )
    )


async def certified(call: Call, method: str) -> SshAnswer:
    """
    Run the flow for a call, counted and limited.

    :raises HandfastError: whatever refuses it. :raises TooMuch: it came too often.
    """
    certifier, identity = call.state.service.certifier, call.peer.identity
    if identity is None:  # unreachable: certificates are on TLS listeners only
        raise Fault("SSH certificates without TLS")
    label = method if method in certifier.introducers else "unknown"
    await openid.prepare(call.state, method, call.body)
    evidence = Evidence(method, call.body, Channel(identity.spki_sha256, public.client(call), call.source))
    flow = certifier.certify(evidence, identity, admit=partial(_admit, call.state))
    return await public.counted(call, label, flow)


async def revoke_certificate(call: Call) -> web.Response:
    """Take an SSH certificate back, as the key in it says."""
    identity = call.peer.identity
    if identity is None:  # unreachable, as above
        raise Fault("a revocation without TLS")
    evidence = Evidence(ssh_pop.REVOKE, call.body, Channel(identity.spki_sha256, None, call.source))
    flow = call.state.service.certifier.revoke(evidence, admit=partial(public.admit, call.state))
    record = await public.counted(call, ssh_pop.REVOKE, flow)
    return public.json(wire.SshRevokedAnswer(str(record.serial), record.holder, record.kind.value))


def _admit(state: State, finding: SshFinding) -> None:
    """
    Count what is proved: a host by its marker, or by its name where it has none, and a person.

    A person gets as many tokens as they like, and each would be a marker of its own.

    :raises TooMuch: too often.
    """
    if finding.kind is Kind.USER:
        public.admit(state, f"{finding.method}:{finding.subject}", buckets=state.logins)
    elif finding.once is None:
        public.admit(state, f"{finding.method}:{finding.subject}")
    else:
        public.admit(state, finding.once.marker)
