"""Replicas that send parts to each other over TLS and with a password, as real servers do: what RESTORE fetches comes that
way, with its projections."""

import http.client
import re
import ssl

import pytest
from pki import Pki
from processes import wait_for
from programs import DONE
from proof import Proof, report
from real_server import VERSIONS
from rig import Cluster
from writer import Ledger

USER, PASSWORD = "a peer", "of the peers"
TABLE = "shop.sums"


def between_peers(pki: Pki) -> str:
    """What a server is told of its peers: whom they are believed by, and with what password they come."""
    return f"""
  <interserver_http_credentials><user>{USER}</user><password>{PASSWORD}</password></interserver_http_credentials>
  <openSSL>
    <server>
      <certificateFile>{pki.cert("coordinator")}</certificateFile>
      <privateKeyFile>{pki.key("coordinator")}</privateKeyFile>
      <verificationMode>none</verificationMode>
    </server>
    <client>
      <caConfig>{pki.ca}</caConfig>
      <loadDefaultCAFile>false</loadDefaultCAFile>
      <verificationMode>strict</verificationMode>
    </client>
  </openSSL>"""


@pytest.fixture(params=VERSIONS)
def cluster(request):
    """Two replicas of one shard on that version, with Rekeeper and a table with a projection."""
    with Cluster(shards=1, replicas=2, engine=request.param) as cluster:
        cluster.pki = Pki(cluster.directory / "peers")
        for host in cluster.hosts:
            host.configure(cluster.zookeeper, more=between_peers(cluster.pki))
            # A server has one of the two ports.
            tls = re.sub("interserver_http_(host|port)", r"interserver_https_\1", host.config.read_text())
            host.config.write_text(tls)
            host.restart()
        cluster.query_all("CREATE DATABASE shop")
        cluster.query_all(
            f"CREATE TABLE {TABLE} (id UInt64, v UInt64, PROJECTION by_id (SELECT id % 10, sum(v) GROUP BY id % 10))"
            " ENGINE = ReplicatedMergeTree('/tables/{shard}/sums', '{replica}') ORDER BY id"
        )
        cluster.start_rekeeper()
        yield cluster


def parts(host, of: str = "parts") -> int:
    """How many active parts the table has there, or how many have a projection."""
    return int(host.value(f"SELECT count() FROM system.{of} WHERE active AND concat(database, '.', table) = '{TABLE}'"))


@pytest.mark.parametrize("restart", ["once", "never"])
def test_what_restore_fetches(cluster, restart):
    """One replica merges and the other does not, so that one has to fetch what the other has."""
    first, second = cluster.hosts
    for number in range(4):
        first.query(f"INSERT INTO {TABLE} SELECT number * 4 + {number}, number FROM numbers(1000)")
    second.query(f"SYSTEM SYNC REPLICA {TABLE}")
    second.query(f"SYSTEM STOP MERGES {TABLE}")
    first.query(f"OPTIMIZE TABLE {TABLE} FINAL SETTINGS alter_sync = 0")
    wait_for(lambda: parts(first) == 1, "the merge on one replica")
    assert parts(second) == 4
    proof = Proof(cluster.directory)
    before = proof.record()
    cluster.rekeeper("plan", "m", "--restart", restart).expect(DONE)
    cluster.rekeeper("start", "m", "--yes").expect(DONE)
    assert report(proof.check(before, Ledger(cluster.directory / "ledger.jsonl")))
    fates = {
        part["fate"]
        for table in cluster.rekeeper("report", "m", "-o", "json").expect(DONE).json["tables"]
        for part in table["parts"]
    }
    # What the other replica has is all that can be in the place of parts that are not there any more.
    assert "covered" in fates, fates
    assert parts(first) == parts(second) == parts(first, "projection_parts") == parts(second, "projection_parts")
    with cluster.zookeeper.client() as zookeeper:
        for host in cluster.hosts:
            told = zookeeper.get(f"/tables/{host.shard}/sums/replicas/{host.replica}/host")[0].decode().split("\n")
            assert {f"port: {host.interserver_port}", "scheme: https"} <= set(told), told
            assert "requires HTTP Basic authentication" in without_password(cluster.pki, host.interserver_port)


def without_password(pki: Pki, port: int) -> str:
    """What a server says to somebody who asks for a part and is no peer."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    try:
        connection.request("POST", "/?endpoint=DataPartsExchange:/tables/01/sums/replicas/r1&part=all_0_0_0&client_protocol_version=8")
        return connection.getresponse().read().decode(errors="replace")
    finally:
        connection.close()
