"""A web server that answers as it is told, or stands before a real one and lets it answer."""

import datetime
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ABSENT = (404, "application/json", '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}')


class Answers(BaseHTTPRequestHandler):
    """Answers each request with `server.answer`, or as the server at `server.behind` does."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        self.server.seen.append((self.path, dict(self.headers)))
        status, kind, text = self.server.answer(self)
        if status == "behind":
            found = requests.request(
                self.command,
                f"{self.server.behind}{self.path}",
                data=body,
                headers={"Content-Type": self.headers.get("Content-Type", "")},
                timeout=60,
            )
            status, kind = found.status_code, found.headers.get("Content-Type", "text/plain")
            content = found.content
        else:
            content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status in (301, 302):
            self.send_header("Location", text)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_CONNECT = answer  # noqa: N815

    def log_message(self, *_):
        """Print nothing."""


@contextmanager
def faulty_server(answer=ABSENT, certificate=None, behind=None, wants_certificate=False):
    """Run a server; `answer` is a triple, or a function of the request that returns one.

    The triple of status, kind and text ("behind", "", "") lets the server at `behind` answer.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    server.behind, server.seen = behind, []
    server.answer = answer if callable(answer) else lambda _request: answer
    scheme = "http"
    if certificate is not None:
        scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if wants_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.handle_error = lambda *_: None  # a handshake that fails is what is tested
    server.uri = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent_port(sends=None):
    """Listen on a port; a client that connects gets no answer, or `sends` and the end."""
    stopped = threading.Event()

    def serve(listening, kept):
        while not stopped.is_set():
            try:
                client, _ = listening.accept()
            except OSError:
                return
            kept.append(client)
            if sends is not None:
                client.recv(4096)
                client.sendall(sends)
                client.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []
        listening.settimeout(0.2)
        threading.Thread(target=_until(stopped, serve), args=(listening, kept), daemon=True).start()
        try:
            yield listening.getsockname()[1]
        finally:
            stopped.set()
            for client in kept:
                client.close()


def _until(stopped, serve):
    def run(listening, kept):
        while not stopped.is_set():
            serve(listening, kept)

    return run


def certificate(path, *, host="127.0.0.1", valid_days=1):
    """Write a certificate that has signed itself, with its key, to `path`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    try:
        place = x509.IPAddress(ip_address(host))
    except ValueError:
        place = x509.DNSName(host)
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=valid_days)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=10))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([place]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return str(path)
