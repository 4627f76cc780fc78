"""Which names of headers, parameters and variables hold a secret."""

from __future__ import annotations

import functools
import re

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_WORD = re.compile(r"[^a-z0-9]+")
_KEYS = (
    "account|admin|api|app|application|auth|access|cipher|client|consumer|crypto|decryption|deploy|encryption"
    "|functions?|hmac|jwt|license|master|private|root|secret|security|service|session|shared|signing|ssh"
    "|storage|subscription|symmetric|webhook"
)
_CODES = "access|auth|authorization|backup|device|login|mfa|otp|recovery|security|totp|verification"
_SECRET_NAME = re.compile(
    rf"""(?:^|-)(?:
        token | secret | password | passwd | pwd | pswd | psw | pw | passphrase | passcode | xauth
      | credentials? | creds | (?:github|gitlab)-pat
      | auth | authorization | authentication | bearer | jwt | signature | sig | hmac | cookie | csrf | xsrf
      | otp | totp | sid | (?:{_KEYS})-?key | (?:{_CODES})-?code | (?:session|sess)-?id
      | (?:user|db|database|admin|root|smtp|ftp|proxy|http|login)-?pass | ^pass | ^pin | ^x-session
    )$
    | (?:token|secret|password|passwd|passphrase|pwd|apikey|secretkey|accesskey|privatekey|sessionid|sessid)$
    """,
    re.VERBOSE,
).search
#: `first_token` and its like are places in a stream, or marks of a language model's vocabulary.
_NO_SECRET_NAME = re.compile(
    r"(?:^|-)(?:bos|each|end|eos|every|first|last|max|mask|min|next|num|of|pad|per|start|stop|ttft|unk)-token$"
).search
#: `auth_header`, `password2`, `x-hub-signature-256`: the word before them says what it is.
_AFTER_NAME = re.compile(
    r"(?:-?v?\d+|-(?:value|header|hash|pem|confirm|confirmation|prod|production|staging|stage|dev|test|live))+$"
)


@functools.lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Return whether a header, parameter or variable of this name holds a secret."""
    words = _NO_WORD.sub("-", _HUMP.sub("-", name[:200]).lower()).strip("-")
    words = _AFTER_NAME.sub("", words)
    return _SECRET_NAME(words) is not None and _NO_SECRET_NAME(words) is None
