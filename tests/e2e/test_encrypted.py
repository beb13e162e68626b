"""Agents that speak TLS with ClickHouse and with ZooKeeper: migrations, and what keeps a server from being believed."""

import re

import pytest
import tables
from pki import Pki
from processes import wait_for
from programs import BLOCKED, DONE
from proof import Proof, report
from rig import Cluster
from tables import Table
from tls_front import TlsFront
from writer import Ledger

LOCAL = "subjectAltName=IP:127.0.0.1"
SERVER = "extendedKeyUsage=serverAuth"


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    """The CA that the operator has, and a certificate for this machine."""
    pki = Pki(tmp_path_factory.mktemp("encrypted") / "pki")
    pki.sign("local", "/CN=local", LOCAL, SERVER)
    return pki


def speak_tls(agent, front: TlsFront, ca) -> None:
    """Let an agent reach its server at the front, from its next start on."""
    url = f"https://127.0.0.1:{front.port}"
    agent.configure(agent.configuration | {"clickhouse": agent.configuration["clickhouse"] | {"url": url, "ca": str(ca)}})


def test_a_migration_over_https(pki):
    with Cluster(shards=1, replicas=2) as cluster:
        tables.create(cluster.shards(), [Table("shop", "orders")])
        rekeeper = cluster.start_rekeeper()
        fronts = []
        for host in cluster.hosts:
            fronts.append(TlsFront(host.port, pki.cert("local"), pki.key("local")))
            speak_tls(cluster.agents[host.name], fronts[-1], pki.ca)
            cluster.agents[host.name].restart()
        rekeeper.wait_for_agents(*(host.name for host in cluster.hosts))
        proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        before = proof.record()
        rekeeper("plan", "m1").expect(DONE)
        rekeeper("start", "m1", "--yes").expect(DONE)
        assert report(proof.check(before, ledger))
        for front in fronts:
            front.close()


def test_a_server_that_is_not_believed_is_not_asked(pki, tmp_path):
    foreign = Pki(tmp_path / "foreign")
    foreign.sign("local", "/CN=local", LOCAL, SERVER)
    pki.sign("elsewhere", "/CN=elsewhere", "subjectAltName=DNS:ch.example", SERVER)
    pki.sign("former", "/CN=former", LOCAL, SERVER, days=0)
    pki.sign("client", "/CN=client", LOCAL, "extendedKeyUsage=clientAuth")
    with Cluster(shards=1, replicas=1) as cluster:
        (host,) = cluster.hosts
        cluster.start_rekeeper()
        agent = cluster.agents[host.name]
        for whose, name, says in [
            (foreign, "local", "its certificate is not signed by a CA of clickhouse.ca of agent.yaml"),
            (pki, "elsewhere", "its certificate is for ch.example, and it is called by another name"),
            (pki, "former", "its certificate is not acceptable: it expired"),
            (pki, "client", "its extendedKeyUsage does not contain serverAuth"),
            (None, "", "it does not speak TLS at this port"),
        ]:
            front = TlsFront(host.port, whose.cert(name), whose.key(name)) if whose else None
            speak_tls(agent, front or host, pki.ca)
            asked = len(host.query_log())
            agent.log.write_text("")
            agent.restart()
            wait_for(lambda: says in agent.log.read_text(), lambda: f"{says!r} in {agent.log_tail()}")
            assert len(host.query_log()) == asked
            if front:
                front.close()


class SecureEnsemble(Cluster):
    """Hosts and agents that speak TLS with ZooKeeper, each side with a certificate."""

    def __init__(self, pki: Pki, name: str = "local"):
        super().__init__(shards=1, replicas=2)
        self.zookeeper.speak_tls(pki.ca, pki.cert(name), pki.key(name))
        files = pki.own("ch-01-1")
        # The engine knows no system's CAs.
        ssl = f"<caConfig>{pki.ca}</caConfig><loadDefaultCAFile>false</loadDefaultCAFile>"
        ssl += f"<certificateFile>{files['cert']}</certificateFile><privateKeyFile>{files['key']}</privateKeyFile>"
        for host in self.hosts:
            host.configure(self.zookeeper, more=f"<openSSL><client>{ssl}</client></openSSL>")
            text = host.config.read_text()
            secure = f"<port>{self.zookeeper.secure_port}</port><secure>1</secure>"
            host.config.write_text(text.replace(f"<port>{self.zookeeper.port}</port>", secure))


def test_an_ensemble_with_tls(pki):
    with SecureEnsemble(pki) as cluster:
        tables.create(cluster.shards(), [Table("shop", "orders")])
        rekeeper = cluster.start_rekeeper()
        proof, ledger = Proof(cluster.directory), Ledger(cluster.directory / "ledger.jsonl")
        before = proof.record()
        rekeeper("plan", "m1").expect(DONE)
        rekeeper("start", "m1", "--yes").expect(DONE)
        assert report(proof.check(before, ledger))
        refused_when_the_configuration_is_another(cluster, pki)


def refused_when_the_configuration_is_another(cluster: SecureEnsemble, pki: Pki) -> None:
    """Each change makes a plan say why, before it looks at anything."""
    host, rekeeper = cluster.hosts[0], cluster.rekeeper
    foreign = Pki(cluster.directory / "foreign")
    whole, port = re.sub(r">\s+<", "><", host.active_config.read_text()), cluster.zookeeper.secure_port
    own = f"<certificateFile>{pki.cert('ch-01-1')}</certificateFile>"
    key = f"<privateKeyFile>{pki.key('ch-01-1')}</privateKeyFile>"
    for old, new, says in [
        (str(pki.ca), str(foreign.ca), f"127.0.0.1:{port}: its certificate is not signed by a CA of <openSSL>"),
        (f"<caConfig>{pki.ca}</caConfig>", "", "there is no CA to believe its nodes by"),
        (str(pki.key("ch-01-1")), str(pki.key("ch-01-2")), "is not the key of the certificate"),
        (own + key, "", f"127.0.0.1:{port}: it takes only clients with a certificate"),
        ("<host>127.0.0.1</host>", "<host>localhost</host>", f"localhost:{port}: its certificate is for 127.0.0.1"),
        (f"<port>{port}</port>", f"<port>{cluster.zookeeper.port}</port>", "is this its port for TLS?"),
    ]:
        assert old in whole
        host.active_config.write_text(whole.replace(old, new))
        answer = rekeeper("plan", "m2", "-o", "json").expect(BLOCKED)
        found = [check["message"] for check in answer.json["blockers"] if check["host"] == host.name]
        assert any(says in message for message in found), (says, found)
