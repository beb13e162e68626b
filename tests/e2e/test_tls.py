"""Mutual TLS with the files that docs/tls.md makes: a migration, what each certificate may do, and each refusal."""

import shutil
import subprocess
import time

import pytest
import tables
from pki import Pki
from processes import wait_for
from programs import DONE, REPOSITORY, UNREACHABLE, USAGE, Rekeeper, binary
from proof import Proof, report
from rig import Cluster
from tables import Table
from writer import Ledger

LOOKING = [["hosts"], ["status"], *([what, "m1"] for what in ("status", "problems", "report", "events", "export"))]
ORDERING = [
    ["plan", "m2"],
    ["start", "m1", "--yes"],
    ["start", "m1", "--dry-run"],
    ["pause", "m1"],
    ["resume", "m1"],
    ["retry", "m1"],
    ["skip", "m1", "--table", "shop.orders"],
    ["abort", "m1"],
]


@pytest.fixture(scope="module")
def cluster():
    """One shard of two hosts with a table, Rekeeper with TLS, and a migration m1 that is done."""
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), [Table("shop", "orders")])
        rekeeper = cluster.start_rekeeper(tls=True)
        proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        before = proof.record()
        rekeeper("plan", "m1").expect(DONE)
        rekeeper("start", "m1", "--yes").expect(DONE)
        assert report(proof.check(before, ledger))
        # Others that are not on the page: each is refused for a reason of its own.
        pki, person = cluster.coordinator.pki, "/OU=rekeeper-operator/CN="
        pki.sign("former", f"{person}former", days=0)
        pki.sign("no-role", "/OU=staff/CN=no-role")
        pki.sign("two-roles", "/OU=rekeeper-viewer/OU=rekeeper-operator/CN=two-roles")
        pki.sign("no-name", "/OU=rekeeper-operator")
        pki.sign("server", f"{person}server", "extendedKeyUsage=serverAuth")
        eku = "extendedKeyUsage=clientAuth"
        pki.sign("other-agent", "/OU=rekeeper-agent/CN=ch-01-2", "subjectAltName=DNS:ch-01-20", eku)
        foreign = Pki(cluster.directory / "foreign")
        for end in ("crt", "key"):
            shutil.copy(foreign.directory / f"anna.{end}", pki.directory / f"foreign.{end}")
            shutil.copy(foreign.directory / f"ch-01-2.{end}", pki.directory / f"foreign-agent.{end}")
        yield cluster


def logged(program, words: str) -> None:
    """Wait until the program's log has these words."""
    wait_for(lambda: words in program.log.read_text(), lambda: f"{words!r} in {program.log_tail()}")


def test_who_ordered_what_is_on_record(cluster):
    """The certificate says who it was, not what the caller's environment claims."""
    rekeeper = Rekeeper(cluster.coordinator)
    rekeeper.environment["USER"] = "eve"
    (started,) = [event["text"] for event in rekeeper.events("m1") if event["kind"] == "ordered"]
    assert started == "start by anna (operator)"
    assert "start by anna (operator)" in rekeeper("events", "m1").expect(DONE).stdout


def test_viewers_look_and_change_nothing(cluster):
    viewer = Rekeeper(cluster.coordinator, "monitoring")
    for arguments in LOOKING:
        assert viewer(*arguments).expect(DONE).stdout or arguments[0] == "problems"
    before = viewer("events", "m1").stdout
    for arguments in ORDERING:
        refused = viewer(*arguments).expect(UNREACHABLE)
        assert "monitoring may look and not change anything" in refused.stderr, refused
        assert "OU=rekeeper-operator" in refused.stderr, refused
    assert viewer("events", "m1").stdout == before
    assert [line["name"] for line in viewer("status", "-o", "json").json] == ["m1"]
    logged(cluster.coordinator, "monitoring may look")


@pytest.mark.parametrize(
    ("caller", "told", "log"),
    [
        (None, "none was given: name yours and its key", "the caller showed no certificate"),
        ("foreign", "not signed by the CA that the coordinator trusts", "is not signed by a CA of tls.client_ca"),
        ("former", "former.crt because of its dates: it is valid from 20", "CN=former"),
        ("server", "has to contain clientAuth", "CN=server"),
        ("no-role", "CN=no-role gives no role: its subject needs OU=rekeeper-operator", "CN=no-role gives no role"),
        ("two-roles", "gives rekeeper-viewer and rekeeper-operator", "two-roles gives rekeeper-viewer and"),
        ("no-name", "has no common name", "has no common name"),
        ("ch-01-1", "agents give no orders", "the certificate of ch-01-1 is an agent's"),
        ("coordinator", "has to contain clientAuth", "CN=Rekeeper coordinator"),
    ],
)
def test_a_caller_is_refused_in_words_on_both_sides(cluster, caller, told, log):
    rekeeper = Rekeeper(cluster.coordinator, caller)
    if caller == "former":
        # It ends within the second in which it was made.
        wait_for(lambda: not _is_valid(cluster.coordinator.pki, caller), "it to expire")
    for arguments in (["hosts"], ["abort", "m1"]):
        refused = rekeeper(*arguments).expect(UNREACHABLE)
        assert told in refused.stderr, refused
        assert not refused.stdout
    logged(cluster.coordinator, log)


def _is_valid(pki: Pki, name: str) -> bool:
    check = ["openssl", "x509", "-in", str(pki.cert(name)), "-noout", "-checkend", "-1"]
    return subprocess.run(check, capture_output=True).returncode == 0


def test_another_coordinator_than_ones_own_is_not_talked_to(cluster):
    rekeeper = Rekeeper(cluster.coordinator)
    rekeeper.environment["REKEEPER_CA"] = str(cluster.directory / "foreign" / "ca.crt")
    refused = rekeeper("hosts").expect(UNREACHABLE)
    assert "is not signed by the CA in" in refused.stderr, refused
    logged(cluster.coordinator, "it trusts another CA")


def test_without_tls_nobody_gets_in(cluster):
    rekeeper = Rekeeper(cluster.coordinator)
    plain = rekeeper.environment["REKEEPER_COORDINATOR"].replace("https", "http")
    for name in ("CA", "CERT", "KEY"):
        del rekeeper.environment[f"REKEEPER_{name}"]
    refused = rekeeper("hosts", "--coordinator", plain).expect(UNREACHABLE)
    assert "https" in refused.stderr, refused
    logged(cluster.coordinator, "the caller does not speak TLS")
    assert "loopback" in rekeeper("hosts", "--coordinator", "http://10.0.0.1:7443").expect(USAGE).stderr


def test_files_of_the_command_line_that_are_no_good_are_wrong_usage(cluster):
    pki, rekeeper = cluster.coordinator.pki, Rekeeper(cluster.coordinator)
    for options, words in [
        (["--key", pki.key("monitoring")], "is not the key of the certificate"),
        (["--cert", "/none"], "--cert: /none cannot be read"),
        (["--ca", pki.ca.with_suffix(".key")], "has no certificate in PEM form"),
    ]:
        assert words in rekeeper("hosts", *options).expect(USAGE).stderr


def again(cluster) -> dict:
    """The only ones that were refused in the handshake."""
    (refusal,) = cluster.rekeeper("hosts", "--refused", "-o", "json").json
    return refusal


def test_an_agent_speaks_for_its_own_host_alone(cluster):
    """Its files change while it runs; each time that it connects it is judged by what is there."""
    pki, coordinator, agent = cluster.coordinator.pki, cluster.coordinator, cluster.agents["ch-01-2"]

    def put(name: str) -> None:
        shutil.copy(pki.key(name), agent.directory / "own.key")
        shutil.copy(pki.cert(name), agent.directory / "own.crt")

    put("ch-01-2")
    agent.configure(agent.configuration | {"tls": {"ca": str(pki.ca), "cert": "own.crt", "key": "own.key"}})
    agent.restart()
    cluster.rekeeper.wait_for_agents("ch-01-2")
    other = "the agent says that it is that of ch-01-2, and its certificate is for"
    for name, told, log in [
        ("ch-01-1", f"{other} ch-01-1", f"{other} ch-01-1"),
        ("other-agent", f"{other} ch-01-20", f"{other} ch-01-20"),
        ("anna", "anna (operator) is that of a person", "anna (operator) is that of a person"),
        ("no-role", "CN=no-role gives no role", "CN=no-role gives no role"),
        ("former", "own.crt because of its dates", "CN=former"),
        ("foreign-agent", "own.crt: it is not signed by the CA", "CN=ch-01-2; valid"),
    ]:
        put(name)
        coordinator.restart()
        logged(agent, told)
        logged(coordinator, log)
        cluster.rekeeper.wait_for_agents("ch-01-1")
        hosts = {host["host"]: host["connected"] for host in cluster.rekeeper("hosts", "-o", "json").json}
        assert hosts["ch-01-1"] and not hosts.get("ch-01-2")
        # Who got as far as to say its name is shown to people as well.
        refused = {host["host"]: host["refused"] for host in cluster.rekeeper("hosts", "-o", "json").json}
        if name in ("ch-01-1", "other-agent", "anna"):
            assert told in refused["ch-01-2"] and "ch-01-2: the " in cluster.rekeeper("hosts").stdout
        # The coordinator is new each time, so what it tells is of this agent.
        handshakes = cluster.rekeeper("hosts", "--refused", "-o", "json").json
        if name in ("former", "foreign-agent"):
            (seen,) = handshakes
            assert seen["address"] == "127.0.0.1" and log in seen["reason"] and seen["count"] >= 1, seen
            assert seen["first"] <= seen["last"] <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), seen
            shown = cluster.rekeeper("hosts").stdout
            assert "Refused in the TLS handshake" in shown and "127.0.0.1 (" in shown, shown
            more = "the agent to be refused again, and told of as one"
            wait_for(lambda: again(cluster)["count"] > seen["count"], more)
        else:
            assert handshakes == []
    put("ch-01-2")
    cluster.rekeeper.wait_for_agents("ch-01-2")
    hosts = cluster.rekeeper("hosts", "-o", "json").json
    assert [host["refused"] for host in hosts] == [None, None]


def test_daemons_say_all_that_is_wrong_with_their_files(cluster, tmp_path):
    pki, wait = cluster.coordinator.pki, lambda: not _is_valid(cluster.coordinator.pki, "former")
    wait_for(wait, "it to expire")

    def check(program, changes: dict, code: int) -> str:
        kept = program.configuration
        try:
            program.configure({key: value for key, value in (kept | changes).items() if value is not None})
            command = [binary(program.program), "--config", program.configuration_file, "--check-config"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == code, done
            return done.stderr
        finally:
            program.configure(kept)

    coordinator, agent = cluster.coordinator, cluster.agents["ch-01-1"]
    everywhere = {"listen": f"0.0.0.0:{coordinator.port}"}
    check(coordinator, everywhere, DONE)
    assert "loopback" in check(coordinator, everywhere | {"tls": None, "insecure": True}, USAGE)
    assert "contradicts" in check(coordinator, {"insecure": True}, USAGE)
    assert "tls: missing" in check(coordinator, {"tls": None}, USAGE)
    (tmp_path / "text").write_text("no PEM")
    wrong = {"cert": "none.crt", "key": str(tmp_path / "text"), "client_ca": str(pki.key("anna"))}
    said = check(coordinator, {"tls": wrong}, USAGE)
    for words in ("none.crt cannot be read", "text has no private key", "anna.key has no certificate"):
        assert words in said, said
    for name, words in [
        ("former", "former.crt expired on 20"),
        ("ch-01-2", "ch-01-2.crt: it is for ch-01-2, and this is the agent of ch-01-1"),
        ("anna", "it is the certificate of anna (operator); an agent's has OU=rekeeper-agent"),
        ("no-role", "gives no role"),
    ]:
        said = check(agent, {"tls": pki.own(name) | {"ca": str(pki.ca)}}, USAGE)
        assert words in said, said
    mixed = {"cert": str(pki.cert("ch-01-1")), "key": str(pki.key("ch-01-2")), "ca": str(pki.ca)}
    assert "ch-01-2.key is not the key of the certificate" in check(agent, {"tls": mixed}, USAGE)
    plain = coordinator.url.replace("https", "http")
    assert "must be an https:// URL" in check(agent, {"coordinator": plain}, USAGE)


def test_the_examples_work_with_the_files_of_the_page(cluster, tmp_path):
    for file in cluster.coordinator.pki.directory.iterdir():
        shutil.copy(file, tmp_path)
    for program in ("coordinator", "agent"):
        text = (REPOSITORY / "deploy" / f"{program}.example.yaml").read_text()
        # The one thing that only a ClickHouse host has.
        text = text.replace("/var/lib/clickhouse/preprocessed_configs/config.xml", "ca.crt")
        (tmp_path / "example.yaml").write_text(text)
        command = [binary(f"rekeeper-{program}"), "--config", tmp_path / "example.yaml", "--check-config"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == DONE, done
