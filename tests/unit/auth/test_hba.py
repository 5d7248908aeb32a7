"""Host-based rules: a table of connections and the line that decides, and a table of lines that cannot be used."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.addresses import Network
from pgdoorman.auth.hba import HbaRules, Method, allow_all, load_hba, parse_hba, rules_from_networks
from pgdoorman.auth.hba_decision import HbaQuestion, explain
from pgdoorman.errors import ConfigErrors
from pgdoorman.protocol.startup import Replication


class Town:
    """A neighbourhood of a few fixed addresses and names, that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def host_name(self, address: str) -> str | None:
        self.asked.append(address)
        names = {"10.0.0.1": "Web.Example.Com", "10.0.0.2": "liar.example.com", "2001:db8::1": "six.example.com"}
        return names.get(address)

    def addresses(self, host_name: str) -> Sequence[str]:
        self.asked.append(host_name)
        found = {
            "web.example.com": ("192.0.2.1", "10.0.0.1"),
            "liar.example.com": ("192.0.2.2",),
            "six.example.com": ("2001:db8:0::1",),
        }
        return found.get(host_name.lower(), ())

    def interfaces(self) -> Sequence[Network]:
        self.asked.append("interfaces")
        return (Network(4, 0x7F000001, 0xFF000000), Network(4, 0xC0A80105, 0xFFFFFF00), Network(6, 1, (1 << 128) - 1))


def question(connection: str) -> HbaQuestion:
    """A connection from a line: USER DATABASE ADDRESS|local [tls] [physical|logical]."""
    user, database, address, *facts = connection.split()
    replication = {"physical": Replication.PHYSICAL, "logical": Replication.LOGICAL}
    return HbaQuestion(
        user,
        database,
        None if address == "local" else address,
        "tls" in facts,
        next((replication[fact] for fact in facts if fact in replication), Replication.NONE),
    )


def deciding_line(rules: HbaRules, connection: str) -> int | None:
    """The number of the line that decides, None if none does."""
    rule = explain(rules, question(connection), Town()).rule
    return rule.line if rule else None


CONFORMANCE = parse_hba(
    r"""local   all         admin                       peer
local   sameuser    all                         md5
local   replication,shop  app,"two words"       scram-sha-256
hostssl all         cert_user   0.0.0.0/0       cert
hostnossl all       tls_only    all             reject
host    all         tls_only    all             md5
host    "all"       all         10.1.0.0/16     trust
host    all         "all"       10.1.0.0/16     password
host    /^shop_\d+$ /^app       10.2.0.0/16     md5
host    replication repl        10.3.0.0 255.255.0.0  scram-sha-256
host    sameuser    all         10.4.0.0 255.0.255.0  md5
host    all         all         ::1/128         trust
host    all         v6          2001:db8::/32   md5
host    all         named       .example.com    md5
host    all         exact       web.example.com md5
host    all         near        samenet         md5
host    all         self        samehost        md5
host    a, b        x,y         10.5.1.2        255.255.255.255 md5
hostgssenc all      all         all             trust
hostnogssenc all    nogss       all             md5
host    all         bits        10.6.7.8/8      md5
host    "sameuser"  all         10.7.0.0/16     md5
host    all         all         10.8.0.0/16     reject
host    all         all         10.8.0.0/8      trust
""",
    "table",
)


@pytest.mark.parametrize(
    ("connection", "line"),
    [
        ("admin any local", 1),
        ("admin admin local", 1),  # the first that matches, though the second does too
        ("eve eve local", 2),
        ("eve any local", None),
        ("app shop local", 3),
        ("app x local physical", 3),
        ("eve eve local physical", None),  # sameuser does not mean a physical replication connection
        ("admin any local physical", None),  # nor does all
        ("app shop local logical", 3),
        ("app x local logical", None),  # a logical one is to a database
        ("cert_user any 1.2.3.4 tls", 4),
        ("cert_user any 1.2.3.4", None),
        ("cert_user any local tls", None),
        ("cert_user any 2001:db9::1 tls", None),  # 0.0.0.0/0 is every IPv4 address and no other
        ("tls_only any 1.2.3.4", 5),
        ("tls_only any 1.2.3.4 tls", 6),
        ("tls_only any ::2 tls", 6),
        ("eve all 10.1.2.3", 7),  # a database called all
        ("all any 10.1.2.3", 8),  # a user called all
        ("eve any 10.1.2.3", 24),
        ("app_1 shop_12 10.2.255.255", 9),
        ("my_app shop_12 10.2.0.0", 24),
        ("app shop_ 10.2.0.0", 24),
        ("app shop_1x 10.2.0.0", 24),
        ("repl any 10.3.9.9 physical", 10),
        ("repl any 10.3.9.9", 24),
        ("repl any 10.3.9.9 logical", 24),
        ("repl replication 10.3.9.9", 24),  # the keyword is no database
        ("u u 10.200.0.77", 11),  # a mask with a hole
        ("u u 10.4.1.0", 24),
        ("u u 10.4.0.1", 11),
        ("u x 10.4.0.1", 24),
        ("anyone any ::1", 12),
        ("v6 any 2001:db8:ffff::1", 13),
        ("v6 any 2001:db9::1", None),
        ("v6 any 2001:db8::1%eth0", 13),
        ("named any 10.0.0.1", 14),
        ("named any 2001:db8::1", 14),
        ("named any 10.0.0.2", 24),  # its name does not lead back to it
        ("named any 10.0.0.3", 24),  # it has no name
        ("exact any 10.0.0.1", 15),
        ("exact any 2001:db8::1", None),
        ("near any 192.168.1.200", 16),
        ("near any 192.168.2.1", None),
        ("near any 127.9.9.9", 16),
        ("self any 192.168.1.5", 17),
        ("self any 192.168.1.6", None),
        ("x a 10.5.1.2", 18),
        ("y b 10.5.1.2", 18),
        ("x c 10.5.1.2", 24),
        ("x a 10.5.1.3", 24),
        ("anyone any 172.16.0.1 tls", None),  # a hostgssenc line matches none of our connections
        ("nogss any 172.16.0.1", 20),
        ("bits any 10.255.0.1", 21),  # bits outside the mask do not count
        ("eve sameuser 10.7.0.1", 22),
        ("eve eve 10.7.1.1", 24),
        ("eve any 10.8.0.1", 23),  # rejected, though a later line would trust
        ("eve any ::ffff:10.8.0.1", 23),  # IPv4 in IPv6's clothes
        ("eve any nonsense", None),
        ("nogss any nonsense", 20),  # all is all
    ],
)
def test_conformance(connection: str, line: int | None) -> None:
    assert deciding_line(CONFORMANCE, connection) == line


def test_no_look_up_is_made_for_lines_that_do_not_match_otherwise() -> None:
    town = Town()
    explain(CONFORMANCE, question("admin any 172.16.0.1"), town)
    assert town.asked == []


def test_the_name_of_a_client_is_looked_up_once() -> None:
    rules = parse_hba("host all all a.example.com trust\nhost all all .net trust\nhost all all .example.com md5")
    town = Town()
    assert explain(rules, question("u d 10.0.0.1"), town).method is Method.MD5
    assert town.asked == ["10.0.0.1", "Web.Example.Com"]


def test_nothing_is_let_in_by_no_rules() -> None:
    explanation = explain(HbaRules(()), question("u d local"))
    assert explanation.rule is None
    assert explanation.method is Method.REJECT


@given(st.text(max_size=20), st.text(max_size=20), st.none() | st.ip_addresses().map(str) | st.text(max_size=20))
def test_any_connection_gets_an_answer(user: str, database: str, address: str | None) -> None:
    explain(CONFORMANCE, HbaQuestion(user, database, address), Town())


# Explaining.


def test_an_explanation_names_the_line_and_why_others_do_not_match() -> None:
    rules = parse_hba(
        "local all all trust\nhostssl all all all trust\nhost x all all trust\nhost all x all trust\n"
        "host all all 10.0.0.0/8 trust\n\nhost all all all md5 # at last\nhost all all all trust",
        "/etc/hba",
    )
    explanation = explain(rules, question("u d 1.2.3.4"))
    assert [reason for _, reason in explanation.passed] == [
        "the connection is not local",
        "the connection does not use TLS",
        "another database",
        "another user",
        "another address",
    ]
    assert explanation.text().endswith("line 7 of /etc/hba: host all all all md5 # at last\n    decides: md5")


def test_an_explanation_when_no_line_matches() -> None:
    rules = parse_hba("hostnossl all all all trust")
    assert explain(rules, question("u d 1.2.3.4 tls")).text() == (
        "line 1 of pg_hba.conf: hostnossl all all all trust\n    does not match: the connection uses TLS\n"
        "no line matches: the connection is refused"
    )
    assert "the connection is local" in explain(rules, question("u d local")).text()


@pytest.mark.parametrize(
    "option",
    ["ldapbindpasswd=hunter2", '"ldapbindpasswd=hunter2 x"', 'ldapbindpasswd="hunter2 x"', "LDAPbindpasswd=hunter2"],
)
def test_passwords_in_a_line_are_never_shown(option: str) -> None:
    line = f"host all all all ldap ldapserver=a ldapbasedn=b {option.replace('LDAP', 'ldap')}"
    rules = parse_hba(line)
    shown = explain(rules, question("u d 1.2.3.4")).text() + repr(rules)
    assert "hunter2" not in shown
    assert rules.rules[0].options["ldapbindpasswd"].startswith("hunter2")


# Rules that are in no file.


@pytest.mark.parametrize(
    ("networks", "connection", "admitted"),
    [
        ([], "u d 1.2.3.4", True),
        ([], "u d local", True),
        ([], "u d ::1 physical", True),
        (["10.0.0.0/8", "::1/128"], "u d 10.1.1.1", True),
        (["10.0.0.0/8", "::1/128"], "u d ::1 tls", True),
        (["10.0.0.0/8", "::1/128"], "u d 11.1.1.1", False),
        (["10.0.0.0/8"], "u d local", True),
        (["10.0.0.1"], "u d 10.0.0.1", True),
        (["10.0.0.1"], "u d 10.0.0.2", False),
    ],
)
def test_the_legacy_list(networks: list[str], connection: str, admitted: bool) -> None:
    explanation = explain(rules_from_networks(networks), question(connection))
    assert explanation.method is (Method.STORED if admitted else Method.REJECT)


def test_without_any_configuration_everyone_may_try() -> None:
    assert explain(allow_all(), question("u d 1.2.3.4")).method is Method.STORED


@pytest.mark.parametrize("text", ["", "x", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "10.0.0.0/8/8", "1/8"])
def test_networks_that_are_none(text: str) -> None:
    with pytest.raises(ConfigErrors, match="invalid network"):
        rules_from_networks(["10.0.0.0/8", text])


# Reading.


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("trust", Method.TRUST),
        ("reject", Method.REJECT),
        ("md5", Method.MD5),
        ("password", Method.PASSWORD),
        ("scram-sha-256", Method.SCRAM),
        ("cert", Method.CERT),
        ("pam pamservice=x", Method.PAM),
        ("pam pam_use_hostname=1", Method.PAM),
        ('ldap ldapserver=a ldapprefix=cn= ldapsuffix=",dc=x"', Method.LDAP),
        ('ldap ldapserver=a ldapbasedn="dc=example, dc=net" ldapsearchattribute=uid', Method.LDAP),
        ("ldap ldapurl=ldaps://host/dc=x?uid?sub ldapbinddn=a ldapbindpasswd=b", Method.LDAP),
        ("jwt key=/etc/key.pem audience=x issuer=y claim=sub map=m", Method.JWT),
        ("oauth issuer=https://x scope=openid jwks=/etc/jwks", Method.OAUTH),
        ("md5 clientcert=verify-ca", Method.MD5),
        ("scram-sha-256 clientcert=verify-full clientname=DN", Method.SCRAM),
        ("cert clientname=CN map=m", Method.CERT),
    ],
)
def test_methods(method: str, wanted: Method) -> None:
    assert parse_hba(f"hostssl all all all {method}").rules[0].method is wanted


def test_ident_on_a_local_line_means_peer() -> None:
    rule = parse_hba("local all all ident map=m").rules[0]
    assert (rule.method, rule.map) == (Method.PEER, "m")


def test_facts_of_a_line() -> None:
    rules = parse_hba("hostssl all all all cert clientname=DN map=m\nhostssl all all all md5 clientcert=verify-ca")
    cert, md5 = rules.rules
    assert (cert.client_cert, cert.client_name, cert.map) == ("verify-full", "DN", "m")
    assert (md5.client_cert, md5.client_name, md5.map) == ("verify-ca", "CN", "")
    assert rules.map_names == {"m"}


def test_quoted_methods_and_types_are_taken_as_written() -> None:
    assert parse_hba('"local" all all "trust"').rules[0].method is Method.TRUST


BAD_LINES = [
    ("nonsense all all all trust", 'invalid connection type "nonsense"'),
    ("host,local all all all trust", "multiple values specified for connection type"),
    ("host", "end-of-line before database specification"),
    ("host all", "end-of-line before role specification"),
    ("host all all", "end-of-line before IP address specification"),
    ("local all all", "end-of-line before authentication method specification"),
    ("host all all all", "end-of-line before authentication method specification"),
    ("host all all 10.0.0.1", "end-of-line before netmask specification"),
    ("host all all 10.0.0.1 md5", 'invalid IP mask "md5"'),
    ("host all all 10.0.0.0/8,11.0.0.0/8 md5", "multiple values specified for IP address"),
    ("host all all 10.0.0.0 255.0.0.0,x md5", "multiple values specified for netmask"),
    ("host all all 10.0.0.0 ::1 md5", "IP address and mask do not match"),
    ("host all all 10.0.0.0/33 md5", "invalid CIDR mask"),
    ("host all all 10.0.0.0/ md5", "invalid CIDR mask"),
    ("host all all 10.0.0.0/-1 md5", "invalid CIDR mask"),
    ("host all all ::/129 md5", "invalid CIDR mask"),
    ("host all all example.com/8 md5", "specifying both host name and CIDR mask is invalid"),
    ("host all all 10.0.0 md5", "invalid IP address or host name"),
    ("host all all 300.0.0.1 md5", "invalid IP address or host name"),
    ("host all all :: md5", 'invalid IP mask "md5"'),
    ("host all all ::g/64 md5", "invalid IP address or host name"),
    ("host all all exa!mple md5", "invalid IP address or host name"),
    ("host all all all md5,trust", "multiple values specified for authentication method"),
    ("host all all all nonsense", 'invalid authentication method "nonsense"'),
    ("host all all all as stored", 'invalid authentication method "as"'),
    ('host all all all "as stored"', "invalid authentication method"),
    ("host all all all MD5", "invalid authentication method"),
    ("host all all all ident", 'authentication method "ident" is not offered'),
    ("host all all all gss", 'authentication method "gss" is not offered'),
    ("host all all all radius", 'authentication method "radius" is not offered'),
    ("host all all all peer", "peer authentication is only supported on local sockets"),
    ("host all all all cert", "cert authentication is only supported on hostssl connections"),
    ("local all all cert", "cert authentication is only supported on hostssl connections"),
    ("host all +group all md5", '"+group" is not supported'),
    ("host samerole all all md5", '"samerole" is not supported'),
    ("host a,samegroup all all md5", '"samegroup" is not supported'),
    ("host /( all all md5", 'invalid regular expression "("'),
    ("host all /[ all md5", 'invalid regular expression "["'),
    ("host all all all md5 nonsense", "authentication option not in name=value format"),
    ("host all all all md5 nonsense=1", 'unrecognized authentication option "nonsense"'),
    ("host all all all md5 map=x", 'authentication option "map" is only valid'),
    ("host all all all md5 clientcert=verify-ca", "clientcert can only be configured for hostssl rows"),
    ("hostssl all all all md5 clientcert=1", "invalid value for clientcert"),
    ("hostssl all all all cert clientcert=verify-ca", 'clientcert only accepts "verify-full"'),
    ("host all all all md5 clientname=CN", "not on a hostssl row"),
    ("hostssl all all all cert clientname=XX", "invalid value for clientname"),
    ("host all all all ldap", 'requires argument "ldapserver" or "ldapurl"'),
    ("host all all all ldap ldapserver=a", 'requires argument "ldapbasedn", "ldapprefix", or "ldapsuffix"'),
    ("host all all all ldap ldapurl=http://a/b", "could not parse LDAP URL"),
    ("host all all all ldap ldapprefix=x", 'requires argument "ldapserver"'),
    ("host all all all ldap ldapserver=a ldapprefix=x ldapbasedn=y", "cannot mix options"),
    (
        "host all all all ldap ldapserver=a ldapbasedn=y ldapsearchattribute=a ldapsearchfilter=b",
        "cannot use ldapsearchattribute together",
    ),
    ("host all all all ldap ldapserver=a ldapbasedn=y ldapport=0", "invalid LDAP port"),
    ("host all all all ldap ldapserver=a ldapbasedn=y ldapscheme=http", "invalid ldapscheme"),
    ("host all all all ldap ldapserver=a ldapbasedn=y ldaptls=2", "invalid value for ldaptls"),
    ("host all all all jwt", 'requires argument "key" or "jwks"'),
    ("host all all all oauth jwks=x", 'requires arguments "issuer" and "scope"'),
    ("host all all all oauth jwks=x issuer=a scope=b validator=c", 'unrecognized authentication option "validator"'),
    ("host @nothing all all md5", "could not open file"),
    ("include nothing", "could not open file"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_line_that_cannot_be_used_names_its_place(line: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_hba(f"local all all trust\n\n{line}\nlocal all all md5\n", "/nowhere/hba")
    (error,) = caught.value.errors
    assert (error.file, error.line) == ("/nowhere/hba", 3)
    assert message in error.message


def test_all_bad_lines_are_told_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_hba("\n".join(line for line, _ in BAD_LINES), "/nowhere/hba")
    assert len(caught.value.errors) == len(BAD_LINES)


def test_names_from_a_file_and_lines_from_others(tmp_path: Path) -> None:
    (tmp_path / "admins").write_text("alice\nbob, carol\n")
    (tmp_path / "more").write_text("host all all all nonsense\n")
    path = tmp_path / "hba"
    path.write_text("local all @admins trust\ninclude_if_exists nothing\n")
    rules = load_hba(str(path))
    assert deciding_line(rules, "carol d local") == 1
    assert deciding_line(rules, "dave d local") is None
    path.write_text("include more\n")
    with pytest.raises(ConfigErrors) as caught:
        load_hba(str(path))
    assert (caught.value.errors[0].file, caught.value.errors[0].line) == (str(tmp_path / "more"), 1)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigErrors, match="could not open the file of host-based rules"):
        load_hba("/nowhere/hba")


@given(st.text(alphabet='host local all,"@+/.:# \n\\=md5trust0123', max_size=120))
def test_reading_raises_nothing_but_config_errors(text: str) -> None:
    try:
        parse_hba(text, "/nowhere/hba")
    except ConfigErrors:
        pass
