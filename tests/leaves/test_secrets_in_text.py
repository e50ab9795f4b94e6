"""No secret of a URL, a connection string or a text that holds one is shown."""

import itertools
import time
from urllib.parse import quote

import pytest

from hpsearch.secrets_in_text import has_secret, names_secret, without_login, without_secrets

SECRETS = (
    *(
        "geheim",
        "p4ss/w0rd",
        "12/34",
        "a?b",
        "a#b",
        "p@ss",
        "x:y",
        "1,2",
        "ge%20heim",
        "%40%2Fgeheim",
    ),
    *("söder-straße", "$(rm)", "a=b", "'quoted", "***x"),
)
PLACES = (
    "postgresql+psycopg://me:{}@host:5432/db",
    "postgresql://me:{}@host",
    "mysql+pymysql://:{}@host/db?charset=utf8",
    "s3://KEY:{}@bucket/path",
    "sqlite:///mlflow.db?x=1&password={}",
    "mlflow-artifacts://me:{}@host/1",
)
WITHOUT_SIGNS = (
    *("geheim", "ge%20heim", "%26geheim%3D", "ghp_0aZ", "e.y-J_x", "abc=="),
    *("tok~en", "a!b$c", "u%C3%B6"),
)
PLACES_WITHOUT_SIGNS = (
    "https://me:{}@host:5000",
    "https://{}@github.com/me/project.git",
    "https://{}:@github.com/me/project.git",
    "https://{}:x-oauth-basic@github.com/me/project.git",
    "git+https://x-access-token:{}@github.com/me/project@main#egg=a",
    "HTTPS://me:{}@[::1]:5000/path",
    "mlflow-artifacts://{}@host/1",
    "postgresql://me:{}@one:1,two:2/db",
    "postgresql://a:b@one,me:{}@two/db",
    "postgresql://me@host/db?password={}",
    "postgresql://me@host/db?sslmode=require&sslpassword={}",
    "postgresql://host/db?user=me&passwd={}&sslmode=require",
    "postgresql://host/db?pass%77ord={}",
    "mssql+pyodbc://host/db?PWD={}",
    "http://host:5000/?token={}",
    "http://host:5000/?access_token={}&a=b",
    "http://host:5000/#access_token={}&token_type=bearer",
    "http://host/?a=b#/page?api_key={}",
    "http://host/?apikey={}",
    "http://host/?API-Key={}",
    "http://host/?key={}",
    "http://host/?client_secret={}",
    "https://account.blob.core.windows.net/c?sv=2022&sig={}&se=2027",
    "https://b.s3.amazonaws.com/k?X-Amz-Signature={}",
    "https://b.s3.amazonaws.com/k?X-Amz-Credential={}&X-Amz-Date=2026",
    "https://b.s3.amazonaws.com/k?X-Amz-Security-Token={}",
    "https://storage.googleapis.com/b?X-Goog-Signature={}",
    "host=db user=me password={} dbname=x",
    "host=db password = {}",
    "host=db password='{}' dbname=x",
    'host=db password="{}"',
    "Max retries exceeded with url: /?token={} (Caused by nothing)",
    "{{'host': 'db', 'password': '{}'}}",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    "http://host/?next=http%3A%2F%2Fme%3A{}%40other%2F",
    "http://host/?next=http%253A%252F%252Fme%253A{}%2540other%252F",
    "postgresql%3A%2F%2Fme%3A{}%40host%2Fdb",
    "--password={}",
    "MLFLOW_TRACKING_TOKEN={}",
)
AROUND = (
    "{}",
    "The store {} cannot be used.",
    "'{}'",
    "({})",
    'connection to "{}" failed: it is away; see https://host/help',
    "fatal: unable to access '{}/': The requested URL returned error: 403",
    "first line\n{}\nlast line",
)
PLAIN = (
    "postgresql+psycopg://me@host:5432/db",
    "postgresql+psycopg://me@one:1,two:2/db?sslmode=require&passfile=/home/me/.pgpass",
    "postgresql://host/db?sslcert=a&sslkey=b",
    "sqlite:///mlflow.db",
    "sqlite:////data/a:b@c/mlflow.db",
    "http://127.0.0.1:5000",
    "http://127.0.0.1:5000/path@v1",
    "http://[::1]:5000/a@b:c",
    "http://host/#/experiments/1/runs/2/?workflowType=machine_learning",
    "https://host/?monkey=1&n_tokens=3&keyboard=4",
    "git@github.com:me/project.git",
    "ssh://git@github.com/me/project.git",
    "wasbs://container@account.blob.core.windows.net/path",
    "abfss://files@account.dfs.core.windows.net/path",
    "s3://bucket/key:1@2",
    "models:/digits-selu@champion",
    "host=db user=me dbname=x passfile=a",
    "http://host/?password=&a=b",
    "hyperparameter learning_rate = 0.1, dropout_rate=0.2",
    "my password is nowhere; put it into PGPASSWORD or ~/.pgpass",
    "100%25 of a%20b",
    "${oc.env:PGUSER,me}",
    "",
    "++arch.pad_token=0",
    "arch.use_token=true",
    "add it with ++arch.pad_token=VALUE",
    "PWD=/home/me OLDPWD=/tmp",
    "the bearer of good news",
    "authorization: required",
    "http://h:5000 and me@x.org",
    "postgresql://db:5432/study?application_name=me@laptop",
)


def checked(place, secret, around):
    text = around.format(place.format(secret))
    shown = without_secrets(text)
    assert secret not in shown, shown
    assert quote(secret) not in shown, shown
    assert "***" in shown
    assert has_secret(text)
    assert without_secrets(shown) == shown
    assert not has_secret(shown)


@pytest.mark.parametrize("around", AROUND)
def test_a_secret_is_hidden_wherever_it_stands(around):
    for place, secret in itertools.product(PLACES[:4], SECRETS):
        if secret != "'quoted" or "'" not in around:
            checked(place, secret, around)
    for place, secret in itertools.product((*PLACES, *PLACES_WITHOUT_SIGNS), WITHOUT_SIGNS):
        checked(place, secret, around)


@pytest.mark.parametrize("text", PLAIN)
def test_a_text_without_a_secret_stays_as_it_is(text):
    assert without_secrets(text) == text
    assert not has_secret(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:geheim@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("at https://a:b@c and https://d:e@f.", "at https://***@c and https://***@f."),
        ("postgresql://me@host/db?password=geheim&a=b", "postgresql://me@host/db?password=***&a=b"),
        ("postgresql://me:my geheim word@host/db", "postgresql://me:***@host/db"),
        ("host=db password='it\\'s geheim' x=1", "host=db password=*** x=1"),
    ],
)
def test_what_is_no_secret_stays_readable(text, shown):
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("http://me:pw@host:5000/a@b", "http://host:5000/a@b"),
        ("https://token@host", "https://host"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)
def test_a_link_has_no_login(url, link):
    assert without_login(url) == link


def test_names_of_variables_say_whether_they_hold_a_secret():
    assert all(map(names_secret, ("PGPASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY")))
    assert not any(map(names_secret, ("PGUSER", "PGPASSFILE", "MLFLOW_TRACKING_USERNAME")))


@pytest.mark.parametrize("piece", ["a", "a-", "a.b", "%4", "'a"])
def test_a_long_text_takes_a_time_that_grows_with_its_length_alone(piece):
    text = piece * (60_000 // len(piece))

    begin = time.process_time()
    shown = without_secrets(text)

    # It takes a tenth of a second; a minute where each sign looks at all that follow.
    assert time.process_time() - begin < 5.0
    assert shown == text
