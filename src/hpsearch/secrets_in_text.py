"""Find and hide the secrets in URLs, connection strings, and texts that hold them.

A secret is what lets its reader in: a password, a token, a key or a signature. It can stand

- before the host of a URL, `https://me:SECRET@host`, also for one of several hosts, and for HTTP
  alone there, `https://SECRET@host`;
- in a parameter of a URL or of its fragment, `?password=SECRET`, whose name tells it;
- in a connection string of libpq, `host=db password='SECRET'`;
- in a header of HTTP, `Authorization: Bearer SECRET`;
- in all of these with percent-encoded characters, such as a URL within a parameter of another.

A user name is no secret, nor is the path of a file that holds one, such as libpq's `passfile`.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_HIDDEN = "***"
# The ends of the names, in lower case and without `-`, `_` and `.`, of what holds a secret.
_ENDS = (
    *("password", "passwd", "passphrase", "pwd", "secret", "token", "signature", "credential"),
    *("credentials", "apikey", "secretkey", "accesskey", "accesskeyid", "privatekey", "authkey"),
)
# Parameters of a URL that hold a secret; as words of other texts they say nothing.
_PARAMETERS = ("key", "sig", "pass", "auth", "authorization", "jwt")
# URLs in which a user without a password may be a token.
_WITH_TOKENS = ("http", "https", "mlflow-artifacts")
_END = r"""(?=['"`)\]}>,.;:]*(?:[\s&#]|$))"""  # what may follow a value in a sentence
# Bounds on the lengths of names let the time for a long text grow with its length alone.
_URL = re.compile(r"(?P<scheme>[a-z][a-z\d+.-]{0,40})://(?P<rest>\S*)", re.IGNORECASE)
# A text that is a URL as a whole may have spaces in its password.
_ONLY_URL = re.compile(
    r"\A(?P<scheme>[a-z][a-z\d+.-]*)://(?P<rest>[^:/@\s]*:(?!\d+[\s/])[^@]*@.*)\Z", re.I
)
_PARAMETER = re.compile(rf"(?<=[?&#;])(?P<name>[^\s=&?#;/]+)=(?P<value>[^\s&#]*?){_END}")
_KEY_VALUE = re.compile(
    r"(?<![\w?&;#.%])(?P<name>[A-Za-z][\w.-]{0,200})(?P<is>\s*=\s*|['\"]\s*:\s*)"
    rf"""(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'"&#]+?{_END})"""
)
_HEADER = re.compile(
    r"(?P<head>authorization['\"]?\s*[:=]\s*['\"]?[a-z]+\s+)(?P<value>[^\s'\",]+)"
    # A word without a digit may be one of a sentence, such as `authorization: required`.
    r"|(?P<word>authorization['\"]?\s*[:=]\s*['\"]?|\bbearer\s+)"
    r"(?P<likely>(?=[^\s'\",]*\d|[^\s'\",]{16})[^\s'\",]+)",
    re.IGNORECASE,
)
# What a setting that is called a token may have without being one, such as `pad_token=0`.
_HARMLESS = re.compile(r"VALUE|\.\.\.|-?\d{1,5}(\.\d+)?|true|false|null|none", re.IGNORECASE)
_ENCODED = re.compile(r"(?<!\S)\S*%[\da-f]{2}\S*", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return a text with three asterisks in place of each secret in it."""
    text = _ONLY_URL.sub(_url, text)
    text = _URL.sub(_url, text)
    text = _PARAMETER.sub(_parameter, text)
    text = _KEY_VALUE.sub(_key_value, text)
    text = _HEADER.sub(_header, text)
    return _ENCODED.sub(_encoded, text)


def has_secret(text: str) -> bool:
    """Return whether a text has a secret in it."""
    return without_secrets(text) != text


def without_login(url: str) -> str:
    """Return a URL without the user and the password before its host, as a link has it."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    return scheme + mark + rest[_end_of_login(scheme, rest) :]


def names_secret(name: str) -> bool:
    """Return whether the name of a parameter or a variable says that it holds a secret."""
    plain = re.sub(r"[\s_.-]", "", unquote(name)).lower()
    return plain.endswith(_ENDS)


def _url(found: re.Match[str]) -> str:
    scheme = found["scheme"]
    rest = found["rest"]
    end = _end_of_login(scheme, rest)
    # Another URL may stand in a parameter of this one.
    after = _URL.sub(_url, rest[end:])
    if not end:
        return f"{scheme}://{after}"
    login = rest[: end - 1]
    user, colon, password = login.partition(":")
    if _has_tokens(scheme):
        # The user may be a token, with an empty password or with the word x-oauth-basic.
        login = _HIDDEN
    elif password:
        # The hosts before the last one are hidden too, since a password may have the same signs.
        login = user + colon + _HIDDEN
    return f"{scheme}://{login}@{after}"


def _has_tokens(scheme: str) -> bool:
    return scheme.lower().endswith(_WITH_TOKENS)


def _end_of_login(scheme: str, rest: str) -> int:
    """Return how many characters after `://` stand before the last host; 0 without a login.

    A password that is not percent-encoded may hold `/`, `?`, `#` and `@`.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = authority.rfind("@") + 1
    is_port = re.fullmatch(r"[^:]*(:\d*)?", authority)
    if end or authority.startswith("["):
        return end
    if is_port and (_has_tokens(scheme) or "@" not in rest.partition("?")[0]):
        return 0  # as in `host:5000/path@version`, or `host:5432/database?user=me@host`
    if ":" not in authority:
        return 0
    return rest.rfind("@") + 1


def _parameter(found: re.Match[str]) -> str:
    name = found["name"]
    is_secret = names_secret(name) or unquote(name).lower() in _PARAMETERS
    if not found["value"] or not is_secret:
        return found[0]
    return f"{name}={_HIDDEN}"


def _key_value(found: re.Match[str]) -> str:
    name = found["name"]
    value = found["value"].strip("'\"/*)]}")
    if not value or not names_secret(name) or name in ("PWD", "OLDPWD"):
        return found[0]
    if value == "VALUE" or (name.lower().endswith("token") and _HARMLESS.fullmatch(value)):
        return found[0]
    return name + found["is"] + _HIDDEN


def _header(found: re.Match[str]) -> str:
    return (found["head"] or found["word"]) + _HIDDEN


def _encoded(found: re.Match[str]) -> str:
    """Return a word decoded and without secrets, where only its decoded form shows one."""
    word = found[0]
    # A space would end the URL.
    decoded = unquote(re.sub(r"%(?:20|0[9ad])", "+", word, flags=re.IGNORECASE))
    shown = without_secrets(decoded)
    if shown == decoded:
        return word
    return shown
