"""Files elsewhere are fetched whole or are one bad input with a plain reason; nothing secret is shown."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from leukemia_cli import remote
from leukemia_cli.errors import MachineError
from leukemia_cli.remote import Unreachable, is_remote, list_remote, read_remote, shown
from leukemia_cli.vision.decode import BadImage, decode

PICTURE = (Path(__file__).parents[1] / "sample_images" / "slide.png").read_bytes()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/secret"):
            self.send_error(403)
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a folder with a picture over HTTP."""
    pytest.importorskip("aiohttp", reason="the extra `remote` is not installed")
    folder = tmp_path_factory.mktemp("web")
    (folder / "slide.png").write_bytes(PICTURE)
    (folder / "text.png").write_text("not a picture")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_scheme_alone_makes_a_name_remote() -> None:
    assert is_remote("s3://bucket/a.png") and is_remote("https://host/a.png")
    for name in ("a.png", "/a/s3:/x.png", "file:///etc/passwd", "ftp://host/a", "./http://x", "S3"):
        assert not is_remote(name), name


def test_what_is_shown_holds_no_password_and_no_signature() -> None:
    assert shown("https://me:secret@host/a.png?X-Signature=abc") == "https://host/a.png"


def test_a_picture_comes_over_http_whole(web: str) -> None:
    """More than one block of the library: a first part taken for the whole would be a truncated picture."""
    assert read_remote(f"{web}/slide.png", len(PICTURE)) == PICTURE
    assert decode(f"{web}/slide.png").width == 1024
    with pytest.raises(Unreachable, match="more than 1,000 bytes"):
        read_remote(f"{web}/slide.png", 1000)


def test_a_bad_address_is_one_bad_image_with_a_reason(web: str) -> None:
    for name, reason in (
        (f"{web}/none.png?sig=abc", "there is no such file"),
        (f"{web}/secret.png", "not allowed"),
        ("http://127.0.0.1:9/a.png", "Cannot connect"),
        (f"{web}/text.png", "looks like text"),
    ):
        with pytest.raises(BadImage, match=reason) as caught:
            decode(name)
        assert "abc" not in caught.value.problem


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    remote._system.cache_clear()
    with pytest.raises(MachineError) as caught:
        read_remote("https://host/a.png", 10)
    assert "leukemia-cli[remote]" in caught.value.hint


_STORE = """
import os, sys
from moto.server import ThreadedMotoServer
os.environ |= dict(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_DEFAULT_REGION="us-east-1")
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:%d" % server.get_host_and_port()[1]
import boto3
store = boto3.client("s3")
store.create_bucket(Bucket="smears")
for name in ("in/b.png", "in/a.PNG", "in/deep/c.png", "in/.hidden.png", "in/notes.txt", "out/d.png"):
    store.put_object(Bucket="smears", Key=name, Body=open(sys.argv[1], "rb").read())
from leukemia_cli.remote import Unreachable, list_remote, read_remote
from leukemia_cli.vision.decode import decode
print(*list_remote("s3://smears/in", (".png",)))
print(decode("s3://smears/in/b.png").width)
for name in ("s3://smears/in/none.png", "s3://nobody/a.png"):
    try:
        read_remote(name, 10**6)
    except Unreachable as error:
        print(error.reason)
server.stop()
"""


def test_pictures_come_from_an_object_store(tmp_path: Path) -> None:
    """A real S3 protocol server of this machine, in a process of its own: its libraries warn and set the environment."""
    pytest.importorskip("s3fs", reason="the extra `remote` is not installed")
    pytest.importorskip("moto", reason="moto, the object store of this test, is not installed")
    picture = tmp_path / "picture.png"
    picture.write_bytes(PICTURE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _STORE, str(picture)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Starting")]
    assert lines == [
        "s3://smears/in/a.PNG s3://smears/in/b.png s3://smears/in/deep/c.png",
        "1024",
        "there is no such file",
        "there is no such file",
    ], done.stderr[-2000:]


def test_a_folder_that_cannot_be_listed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def find(self, folder: str) -> list[str]:
            raise PermissionError(folder)

    monkeypatch.setattr(remote, "_system", lambda scheme: Refusing())
    with pytest.raises(Unreachable, match="not allowed"):
        list(list_remote("s3://bucket/x", (".png",)))
