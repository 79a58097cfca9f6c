"""Under which names and path the page answers."""

from pathlib import Path

import pytest

from configs.errors import ConfigError
from demo.access import OWN, Access, read_name
from demo.serve import ROUTES, ROWS
from demo.viewer.pages import Viewer
from demo.viewer.sources import Folder


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lab.example", ("lab.example", None)),
        ("LAB.Example.:8443", ("lab.example", 8443)),
        ("127.0.0.1:7860", ("127.0.0.1", 7860)),
        ("[::1]:7860", ("::1", 7860)),
        ("[0:0:0:0:0:0:0:1]", ("::1", None)),
        ("[FD00::1]", ("fd00::1", None)),
        ("my_lab", ("my_lab", None)),
    ],
)
def test_a_name_in_one_spelling(text: str, name: tuple[str, int | None]) -> None:
    assert read_name(text) == name


BAD_NAMES = [
    "",
    " ",
    ".",
    "..",
    "a..b",
    ":80",
    "lab.example:",
    "lab.example:0",
    "lab.example:65536",
    "lab.example:-1",
    "lab.example:x",
    "lab.example:٣",
    "lab.example:080808",
    "https://lab.example",
    "//lab.example",
    "lab.example/",
    "lab.example/look",
    "lab.example?x",
    "user@lab.example",
    "a,b",
    "a b",
    "lab.example\n",
    "*",
    "*.example",
    "fd00::1",
    "[lab.example]",
    "[::1",
    "[::1]]",
    "[::1%eth0]",
    "[1::2::3]",
    "a" * 64,
]


@pytest.mark.parametrize("text", BAD_NAMES)
def test_what_is_not_a_name(text: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of a host") as raised:
        Access.parse("127.0.0.1", ["lab.example", text])
    assert repr(text) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "path"), [("/", ""), ("/look", "/look"), ("/look/", "/look"), ("/a/b-c_d.e~f", "/a/b-c_d.e~f")]
)
def test_a_path(text: str, path: str) -> None:
    assert Access.parse("127.0.0.1", (), text).root_path == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "look",
        "http://lab.example/look",
        "//lab.example/look",
        "/a//b",
        "/..",
        "/a/../b",
        "/./a",
        "/a?b",
        "/a#b",
        "/a b",
        "/%2e%2e",
        "/ä",
        "/a//",
        "/a\n",
        "/a\\b",
        "//",
    ],
)
def test_what_is_not_a_path(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a path") as raised:
        Access.parse("127.0.0.1", (), text)
    assert "\n" not in str(raised.value)


def test_a_path_of_the_page_itself_is_refused(tmp_path: Path) -> None:
    """A proxy that removes the path would make its addresses ambiguous."""
    for own in OWN:
        with pytest.raises(ConfigError, match="a path of the page itself"):
            Access.parse("127.0.0.1", (), f"/{own}/look")
    routes = "|".join(route.pattern for route in ROUTES.values()).replace("\\", "")
    (tmp_path / "traces.jsonl").write_text("{}\n")
    routes += "".join([ROWS, *Viewer(Folder(tmp_path))._routes])  # the viewer's page has the same rule
    assert all(f"/{own}" in routes for own in OWN)


@pytest.mark.parametrize(
    ("allowed", "host", "answered"),
    [
        ([], "127.0.0.1:7860", True),
        ([], "LOCALHOST", True),
        ([], "localhost.:7860", True),
        ([], "[::1]:7860", True),
        ([], "lab.example", False),
        ([], "", False),
        ([], "::1", False),
        ([], "localhost.evil.example", False),
        ([], "evil.example#localhost", False),
        (["lab.example"], "lab.example", True),
        (["lab.example"], "Lab.Example.", True),
        (["lab.example"], "lab.example:8443", True),
        (["lab.example"], "localhost:7860", True),
        (["lab.example"], "evil.example", False),
        (["lab.example"], "www.lab.example", False),
        (["lab.example"], "lab.example.evil.example", False),
        (["lab.example"], "lab.example, evil.example", False),
        (["lab.example:8443"], "lab.example", True),  # a proxy may leave out the port
        (["bücher.example:8443"], "xn--bcher-kva.example:8443", True),
        ([], "lºcalhost", False),
        (["[fd00::1]"], "[FD00:0::1]:80", True),
    ],
)
def test_hosts(allowed: list[str], host: str, answered: bool) -> None:
    assert Access.parse("127.0.0.1", allowed).answers_to(host) is answered


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "own"),
    [
        ([], "http://127.0.0.1:7860", "127.0.0.1:7860", True),
        ([], "http://localhost", "localhost:80", True),
        ([], "http://LocalHost:7860", "localhost:7860", True),
        ([], "http://[::1]:7860", "[::1]:7860", True),
        ([], "http://127.0.0.1:9999", "127.0.0.1:7860", False),
        ([], "http://localhost:7860", "127.0.0.1:7860", False),
        ([], "http://lab.example", "127.0.0.1:7860", False),
        ([], "null", "127.0.0.1:7860", False),
        ([], "", "127.0.0.1:7860", False),
        ([], "file://127.0.0.1:7860", "127.0.0.1:7860", False),
        ([], "http://127.0.0.1:7860/", "127.0.0.1:7860", False),
        ([], "http://evil.example@127.0.0.1:7860", "127.0.0.1:7860", False),
        (["lab.example"], "https://lab.example", "lab.example", True),  # $host and $http_host
        (["lab.example"], "https://Lab.Example", "127.0.0.1:7860", True),  # $proxy_host
        (["lab.example"], "http://lab.example", "127.0.0.1:7860", True),
        (["lab.example"], "https://lab.example:8443", "lab.example:8443", True),  # $http_host
        (["lab.example"], "https://lab.example:8443", "lab.example", False),
        (["lab.example"], "https://lab.example:8443", "127.0.0.1:7860", False),
        (["lab.example:8443"], "https://lab.example:8443", "lab.example", True),
        (["lab.example:8443"], "https://lab.example:8443", "127.0.0.1:7860", True),
        (["lab.example:8443"], "https://lab.example", "lab.example", False),
        (["lab.example:8443"], "https://lab.example", "127.0.0.1:7860", False),
        (["a.example", "b.example"], "https://b.example", "127.0.0.1:7860", True),
        (["lab.example"], "https://evil.example", "lab.example", False),
        (["lab.example"], "https://lab.example.evil.example", "lab.example", False),
        (["lab.example"], "null", "lab.example", False),
        (["lab.example"], "http://localhost:9999", "localhost:7860", False),
    ],
)
def test_origins(allowed: list[str], origin: str, host: str, own: bool) -> None:
    access = Access.parse("127.0.0.1", allowed)
    assert access.answers_to(host) and access.is_page(origin, host) is own


def test_a_page_open_to_the_network() -> None:
    everywhere = Access.parse("0.0.0.0")
    assert everywhere.answers_to("any.example") and everywhere.is_page("http://any.example", "any.example")
    assert not everywhere.is_page("http://other.example", "any.example")
    assert not everywhere.answers_to("")
    # With a list, the names on it, and the address on which the page listens for a proxy on another machine.
    listed = Access.parse("192.168.1.5", ["lab.example"])
    answered = {host: listed.answers_to(host) for host in ("lab.example", "192.168.1.5:7860", "any.example")}
    assert answered == {"lab.example": True, "192.168.1.5:7860": True, "any.example": False}
    assert Access.parse("fd00::5", ["lab.example"]).answers_to("[fd00::5]:7860")


def test_paths_below_the_root() -> None:
    access = Access(root_path="/look")
    asked = ["/look", "/look/", "/look/config", "/looks", "/", "/config", "/look/look/"]
    assert [access.below(path) for path in asked] == [None, "/", "/config", "/looks", "/", "/config", "/look/"]
    assert Access().below("/look") == "/look"
