"""Ask an MLflow server a question as MLflow's client would, and say why no answer comes.

Login, certificates and proxies are those that MLflow takes from the environment. A question is
asked once; MLflow's client would repeat it for minutes.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from hpsearch.errors import TrackingError, first_line
from hpsearch.secrets_in_text import without_secrets

_LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_SILENT = (
    "it has not answered for {timeout_s:g} seconds; look whether mlflow server works there, and "
    "set MLFLOW_HTTP_REQUEST_TIMEOUT=SECONDS where it is slow"
)
_SPEAKS_HTTPS = "it speaks https, not http; give https:// in place of http://"
# What OpenSSL says of a certificate, by its number.
_EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 10, 62, 64


def ask(
    uri: str,
    path: str,
    timeout_s: float,
    query: Mapping[str, str],
) -> dict[str, Any] | None:
    """Return the answer of a server's interface; None where it says that there is no such thing.

    Args:
        uri: The address of the server.
        path: What is asked, such as `experiments/get-by-name`.
        timeout_s: How long the server may take, in seconds, unless MLFLOW_HTTP_REQUEST_TIMEOUT
            says otherwise.
        query: The parameters of the question.

    Raises:
        TrackingError: The server cannot be reached or refuses. The sentence says why, and what
            helps.
    """
    given = os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
    with suppress(ValueError):
        timeout_s = float(given)
    try:
        creds = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
        response = http_request(  # type: ignore[no-untyped-call]
            creds,
            f"/api/2.0/mlflow/{path}",
            "GET",
            max_retries=0,
            timeout=timeout_s,
            raise_on_status=False,
            params=dict(query),
        )
    # MLflow lets some errors of requests through, and some of reading certificates.
    except (MlflowException, requests.RequestException, OSError, ValueError) as error:
        cause = _cause(uri, error, timeout_s)
        raise _fault(uri, cause) from error
    answer = _answer(response)
    status = response.status_code
    if status == requests.codes.ok and answer is not None:
        return answer
    if answer is not None and answer.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
        return None
    has_login = "Authorization" in response.request.headers
    raise _fault(uri, _refusal(response, answer, has_login))


def _fault(uri: str, cause: str) -> TrackingError:
    return TrackingError(f"The MLflow server {without_secrets(uri)} cannot be used: {cause}.")


def _answer(response: requests.Response) -> dict[str, Any] | None:
    """Return what MLflow answers; None for the page of another web server."""
    with suppress(ValueError):
        found = response.json()
        if isinstance(found, dict):
            return found
    return None


def _refusal(
    response: requests.Response,
    answer: Mapping[str, Any] | None,
    has_login: bool,
) -> str:
    """Return why a server refuses, and what helps."""
    status = response.status_code
    if status == requests.codes.unauthorized and has_login:
        return f"it does not accept the login; correct {_LOGIN}"
    for (of_status, text), cause in _REFUSALS.items():
        if status == of_status and text in response.text:
            return cause
    if status < requests.codes.server_error:
        return (
            f"what answers there is no MLflow server (HTTP {status}); give the address of mlflow "
            "server, with its port and the path before its pages, if any"
        )
    said = f"HTTP {status}"
    if answer is not None and "message" in answer:
        message = without_secrets(str(answer["message"]))
        said += f", {message:.200}".rstrip(".")
    return (
        f"it fails with an error of its own ({said}); look at the log of mlflow server and of any "
        "proxy before it"
    )


# By the status of an answer and a part of its text.
_REFUSALS = {
    (401, ""): f"it needs a login; set {_LOGIN}",
    (403, "Invalid Host header"): (
        "it does not accept this name of its host; start it with --allowed-hosts, or give another "
        "name of it"
    ),
    (403, ""): (
        "this login may not use it, or not the experiment (HTTP 403); ask for the permission, or "
        f"give another login, {_LOGIN}"
    ),
    (400, "HTTPS"): _SPEAKS_HTTPS,
    (407, ""): "the proxy in between needs a login; put it into HTTP_PROXY or HTTPS_PROXY",
    (429, ""): "it answers that too many requests come (HTTP 429); give the command again later",
}


def _chain(error: object) -> Iterator[BaseException]:
    """Yield an error and those behind it; requests and urllib3 keep theirs as values."""
    seen = []
    waiting = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or found in seen:
            continue
        seen.append(found)
        yield found
        waiting += [found.__cause__, found.__context__, getattr(found, "reason", None)]
        waiting += found.args


def _cause(
    uri: str,
    error: BaseException,
    timeout_s: float,
) -> str:
    """Return why a server could not be asked, and what helps."""
    errors = list(_chain(error))
    host = urlsplit(uri).hostname
    for kind, cause in _CAUSES.items():
        if any(isinstance(found, kind) for found in errors):
            return cause.format(host=host, timeout_s=timeout_s)
    for found in errors:
        if isinstance(found, ssl.SSLError):
            return _cause_of_tls(found)
        if isinstance(found, OSError) and found.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return f"no network leads to {host}; look at the network, or correct the address"
    if uri.startswith("http://") and _speaks_tls(uri):
        return _SPEAKS_HTTPS
    if any(isinstance(found, requests.ConnectionError) for found in errors):
        return "it ends the connection without an answer; look at its log"
    return without_secrets(first_line(error))


_CAUSES: dict[type[BaseException], str] = {
    requests.exceptions.ProxyError: (
        "the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names does not let the request "
        "through; correct it, or add {host} to NO_PROXY"
    ),
    socket.gaierror: "there is no host {host}, or no network; correct the name",
    ConnectionRefusedError: (
        "nothing answers there; start mlflow server, or correct the address and the port"
    ),
    TimeoutError: _SILENT,
    requests.exceptions.Timeout: _SILENT,
}


def _cause_of_tls(error: ssl.SSLError) -> str:
    insecure = "MLFLOW_TRACKING_INSECURE_TLS=true uses it unchecked"
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message
        if error.verify_code == _EXPIRED:
            return f"its certificate has expired; renew it on the server ({insecure})"
        if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
            return (
                "its certificate is for another host; give the host that the certificate names "
                f"({insecure})"
            )
        return (
            f"nobody whom this machine trusts has signed its certificate ({said}); name the file "
            "of the certificate, or of the authority that has signed it, in "
            f"MLFLOW_TRACKING_SERVER_CERT_PATH ({insecure})"
        )
    reason = str(error.reason or error)
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return (
            "it asks for a certificate of this machine; name its file in "
            "MLFLOW_TRACKING_CLIENT_CERT_PATH"
        )
    if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason:
        return "it speaks http, not https; give http:// in place of https://"
    return (
        f"no TLS connection can be made ({reason}); look at its log, and name a certificate in "
        "MLFLOW_TRACKING_CLIENT_CERT_PATH where it asks for one"
    )


def _speaks_tls(uri: str) -> bool:
    """Return whether a server that was asked without TLS answers a greeting of TLS."""
    parts = urlsplit(uri)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        address = (parts.hostname or "", parts.port or 80)
        with socket.create_connection(address, timeout=2) as plain:
            context.wrap_socket(plain, server_hostname=parts.hostname).close()
    except (OSError, ValueError):
        return False
    return True
