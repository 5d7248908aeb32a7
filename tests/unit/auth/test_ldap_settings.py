"""What an ldap line says."""

import pytest

from pgdoorman.auth.ldap_settings import LdapSettings


def test_simple_bind() -> None:
    settings = LdapSettings.from_options({"ldapserver": "a b", "ldapprefix": "cn=", "ldapsuffix": ",dc=x"})
    assert settings == LdapSettings(("a", "b"), 389, prefix="cn=", suffix=",dc=x")


def test_search_and_bind() -> None:
    options = {
        "ldapserver": "a",
        "ldapbasedn": "dc=x",
        "ldapbinddn": "cn=reader",
        "ldapbindpasswd": "hunter2",
        "ldapsearchfilter": "(|(uid=$username)(mail=$username))",
        "ldaptls": "1",
        "ldapport": "1389",
        "ldapcafile": "/ca",
    }
    settings = LdapSettings.from_options(options)
    assert settings == LdapSettings(
        ("a",),
        1389,
        start_tls=True,
        ca_file="/ca",
        base="dc=x",
        filter="(|(uid=$username)(mail=$username))",
        bind_name="cn=reader",
        bind_password="hunter2",
    )
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("ldap://h/dc=x", LdapSettings(("h",), 389, base="dc=x")),
        ("ldaps://h/dc=x", LdapSettings(("h",), 636, tls=True, base="dc=x")),
        ("ldap://h:1389/dc=x,dc=y?cn?one", LdapSettings(("h",), 1389, base="dc=x,dc=y", scope="one", attribute="cn")),
        (
            "ldap://h/dc=a%20b??base?(cn=$username)",
            LdapSettings(("h",), 389, base="dc=a b", scope="base", filter="(cn=$username)"),
        ),
        ("ldap://[::1]/dc=x???", LdapSettings(("::1",), 389, base="dc=x")),
    ],
)
def test_urls(url: str, settings: LdapSettings) -> None:
    assert LdapSettings.from_options({"ldapurl": url}) == settings


def test_an_option_wins_over_the_url() -> None:
    settings = LdapSettings.from_options({"ldapurl": "ldap://h/dc=x?cn", "ldapsearchattribute": "uid", "ldapport": "1"})
    assert (settings.attribute, settings.port) == ("uid", 1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "http://h/dc=x",
        "ldap:///dc=x",
        "ldap://h",
        "ldap://h/dc=x??all",
        "ldap://h/dc=x?a,b",
        "ldap://h:99999/x",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        LdapSettings.from_options({"ldapurl": url})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ldapserver": " ", "ldapbasedn": "x"},
        {"ldapserver": "a"},
        {"ldapserver": "a", "ldapprefix": "x", "ldapbasedn": "y"},
        {"ldapserver": "a", "ldapsuffix": "x", "ldapbinddn": "y"},
        {"ldapserver": "a", "ldapbasedn": "x", "ldapsearchattribute": "y", "ldapsearchfilter": "z"},
        {"ldapserver": "a", "ldapbasedn": "x", "ldapport": "0"},
        {"ldapserver": "a", "ldapbasedn": "x", "ldapport": "x"},
        {"ldapserver": "a", "ldapbasedn": "x", "ldapscheme": "http"},
        {"ldapserver": "a", "ldapbasedn": "x", "ldapscheme": "ldaps", "ldaptls": "1"},
    ],
)
def test_what_cannot_be_meant(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        LdapSettings.from_options(options)
