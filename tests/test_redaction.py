"""Which names hold a secret, which values are secrets, and that no written form of one stays in a text."""

from __future__ import annotations

import base64
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.errors import BadInput, PerfkitError
from perfkit.redaction import (
    Redactor,
    is_secret_name,
    masked,
    masked_text,
    redacted_errors,
    secrets_in,
    secrets_of,
)
from tests.secret_forms import ALPHABETS, FORMS, held, random_secret

# -- names -----------------------------------------------------------------------------------------

SECRET_NAMES = re.findall(
    r"\S+",
    """
    token secret password passwd pwd passphrase passcode credential credentials creds auth
    authorization bearer jwt signature sig hmac cookie set-cookie csrf xsrf otp totp sid pin
    x-session api_key apikey apiKey APIKEY X-API-Key x-functions-key secret_key secretKey
    encryption_key encryptionKey access_key AWS_SECRET_ACCESS_KEY private_key AccountKey
    SharedAccessKey ocp-apim-subscription-key signing-key access_token accessToken refresh_token
    id_token GITHUB_TOKEN authToken csrfmiddlewaretoken X-CSRFToken client_secret clientSecret
    session-id x-session-id sessionId SESSIONID PHPSESSID JSESSIONID connect.sid auth-code
    x-auth-code authCode verification_code user_pwd DB_PASS PGPASSWORD proxy-authorization
    x-bare-password x-amz-security-token X-Amz-Signature x-hub-signature-256 password2 token_value
    x_auth_header
    """,
)
ORDINARY_NAMES = re.findall(
    r"\S+",
    """
    keyword keyboard monkey tokens_out max_tokens maxTokens tokenizer first_token
    time_to_first_token author authors design assigned key key_count primary_key partition-key
    cacheKey public_key side inside residual signal signage insignia session session_count sessions
    path host user user_id code status_code zip_code secretary secret_count passive passenger bypass
    compass pinned spin content-type accept user-agent etag x-request-id idempotency-key token_env
    password_length auth_mode authenticated cookies_accepted hash
    """,
)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_name(name: str) -> None:
    """Whatever its case and its way of joining words."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_an_ordinary_name(name: str) -> None:
    """Names that only hold the letters of one; what is hidden without need is missing in a comparison."""
    assert not is_secret_name(name)


# -- values ----------------------------------------------------------------------------------------

MASKED_TEXTS = {
    "postgresql://me:hunter2@db:5432/x?sslmode=off": "postgresql://***@db:5432/x?sslmode=off",
    "mysql://me:p@ss@db/x": "mysql://***@db/x",
    "redis://:hunter2@db": "redis://***@db",
    "https://ghp_abc@github.com/x.git": "https://***@github.com/x.git",
    "host=db user=me password=hunter2 port=5": "host=db user=me password=*** port=5",
    "host=db password='it''s mine' port=5": "host=db password='***' port=5",
    "Server=db;Uid=me;Pwd=hunter2;Port=5": "Server=db;Uid=me;Pwd=***;Port=5",
    "https://h/p?a=1&token=abc&key=def#x": "https://h/p?a=1&token=***&key=***",
    '{"user": "me", "password": "a\\"b", "n": 1}': '{"user": "me", "password": "***", "n": 1}',
    'said {\\"apiKey\\": \\"abc\\", \\"n\\": 1}': 'said {\\"apiKey\\": \\"***\\", \\"n\\": 1}',
    "Authorization: Bearer abc": "Authorization: ***",
    "sent Bearer abc": "sent Bearer ***",
    "answer: token=x": "answer: token=***",
    "http://127.0.0.1:8000/users/a@b.c?page=2": "http://127.0.0.1:8000/users/a@b.c?page=2",
    "a basic understanding of the bearer token": "a basic understanding of the bearer token",
    "key=7 code=8 max_tokens=9": "key=7 code=8 max_tokens=9",
}


@pytest.mark.parametrize(("text", "shown"), MASKED_TEXTS.items())
def test_a_secret_inside_a_text(text: str, shown: str) -> None:
    """Passwords of URLs, and what stands beside a secret name; masking again changes nothing."""
    assert masked_text(text) == shown
    assert masked_text(shown) == shown


def test_nested_values() -> None:
    """At any depth, in lists, in pairs, numbers too; true, false, nothing and counts stay."""
    values = {
        "login": {"user": "me", "password": "hunter2", "otp": 123456, "auth": None, "secret": True},
        "headers": [["x-api-key", "abc"], ["accept", "*/*"], {"name": "cookie", "value": "a=b"}],
        "credentials": {"user": "me", "list": ["x", {"y": "z"}]},
        "tokens": ["abc", "def"],
        "max_tokens": 100,
        "db": ["postgresql://me:hunter2@db"],
    }
    assert masked(values) == {
        "login": {"user": "me", "password": "***", "otp": "***", "auth": None, "secret": True},
        "headers": [["x-api-key", "***"], ["accept", "*/*"], {"name": "cookie", "value": "***"}],
        "credentials": {"user": "***", "list": ["***", {"y": "***"}]},
        "tokens": ["***", "***"],
        "max_tokens": 100,
        "db": ["postgresql://***@db"],
    }


def test_what_is_searched_for() -> None:
    """Values of at least 8 characters, and what of them may be echoed alone; the parts of a cookie too."""
    basic = base64.b64encode(b"me:basic-password").decode()
    known = secrets_of(
        {
            "headers": {
                "cookie": "sid=abcdef123456; consent=1; lang=e",
                "authorization": f"Basic {basic}",
                "x-api-key": "short",
            },
            "otp": 12345678,
            "db": "postgresql://u:pa%40ssword@h",
        },
        ["a-token-of-mine", None],
    )
    assert {"abcdef123456", basic, "basic-password", "12345678", "pa%40ssword", "pa@ssword"} <= set(known)
    assert {"a-token-of-mine", "Bearer a-token-of-mine"} <= set(known)
    assert not {"1", "e", "short", "me"} & set(known)
    assert all(len(secret) >= 8 for secret in known)
    assert "abcdef123456" in secrets_in({"Cookie": 'theme=dark; sid="abcdef123456"'})


# -- written forms ---------------------------------------------------------------------------------


def check_forms(secret: str, rng: random.Random) -> None:
    """Every form of a secret, in ordinary text and beside odd characters, is removed whole."""
    redact = Redactor((secret,))
    for name, form in FORMS.items():
        before, after = ("".join(rng.choices(" x%&\\\"'=:/;\n", k=rng.randint(0, 3))) for _ in range(2))
        text = f"said {before}{form(secret)}{after} here"
        out = redact(text)
        assert "***" in out, (name, secret, text)
        assert not held(out, secret), (name, secret, text, out)


@given(st.sampled_from(ALPHABETS).flatmap(lambda letters: st.text(letters, min_size=8, max_size=60)))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_no_form_of_a_secret_stays(secret: str) -> None:
    """Letter case, hex, base64 at each place, escaped for JSON, URLs and HTML, once and twice."""
    if len(secret.strip()) >= 8:
        check_forms(secret.strip(), random.Random(secret))


@pytest.mark.slow
def test_no_form_of_many_secrets_stays() -> None:
    """The same for 400 secrets of all alphabets."""
    rng = random.Random(13)
    for _ in range(400):
        check_forms(random_secret(rng), rng)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=8, max_size=30))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_secrets_of_any_script(secret: str) -> None:
    """A parameter's value may hold any printable character; as it is and in JSON it is found."""
    redact = Redactor((secret,))
    for form in ("as it is", "JSON"):
        out = redact(f"<{FORMS[form](secret)}>")
        assert secret not in out
        assert "***" in out


def test_a_short_secret_is_not_searched_for() -> None:
    """It would be found in ordinary text by chance."""
    assert Redactor(("e", "", "short12"))("the short12 text") == "the short12 text"
    assert Redactor(("short123",))("the SHORT123 text") == "the *** text"


def test_a_longer_secret_is_removed_whole() -> None:
    """Though a part of it is a secret too, wherever the part stands in it."""
    redact = Redactor(("abcdefgh", "abcdefgh-and-more", "more-of-abcdefgh", "efgh-and-more-still"))
    assert redact("1 abcdefgh-and-more 2 more-of-abcdefgh 3") == "1 *** 2 *** 3"
    assert redact("abcdefgh-and-more-still.") == "***."


@pytest.mark.parametrize("length", [0, 299, 5000])
def test_the_beginning_of_a_text_has_no_half_secret(length: int) -> None:
    """Wherever the secret stands, and where the text itself was cut inside of it."""
    secret = "s3cr3t" * 30
    redact = Redactor((secret,))
    for end in (1, 90, 179, 180, 2000):
        clean = redact.beginning(("x" * length + secret * 12)[: length + end + 180], 300, cut=True)
        assert "s3c" not in clean
        assert len(clean) <= 300


HOSTILE = ("&amp;", "&", "%25", "%", "\\", "+", " ", "+ ", "\\n", '" ', "a", "a&", "\\u005c", "\\\\n ", "&#0")


@pytest.mark.parametrize(
    "secret", ["&&&&&&&&&", "%%%%%%%%", "+ + + + + +", "\\" * 9, ' + +\\\\+ " " ', "a&" * 9, "\\n \\n \\n "]
)
def test_no_text_of_a_server_takes_long(secret: str) -> None:
    """16,000 characters that begin like the secret, again and again: well under a second each."""
    redact = Redactor((secret,))
    began = time.process_time()
    for unit in HOSTILE:
        redact((unit * 16_000)[:16_000] + "x")
    assert time.process_time() - began < 20


def test_nested_values_of_perfkit_keep_their_names() -> None:
    """The outermost names are perfkit's own: a secret that is one of them does not rename it."""
    redact = Redactor(("transport",))
    assert redact.within({"transport": "transport", "headers": {"transport": "x"}}) == {
        "transport": "***",
        "headers": {"***": "x"},
    }
    assert (
        Redactor(("127.0.0.1",)).url("http://127.0.0.1:80/127.0.0.1?token=x")
        == "http://127.0.0.1:80/***?token=***"
    )


def test_messages_of_errors() -> None:
    """The class and exit code of perfkit's own stay; others become perfkit's when they hold a secret."""
    redact = Redactor(("hunter2hunter2",))
    with pytest.raises(BadInput, match=r"^bad \*\*\*$"), redacted_errors(redact):
        raise BadInput("bad hunter2hunter2")
    with pytest.raises(PerfkitError, match=r"^KeyError: '\*\*\*'$"), redacted_errors(redact):
        raise KeyError("hunter2hunter2")
    with pytest.raises(KeyError), redacted_errors(redact):
        raise KeyError("harmless")
