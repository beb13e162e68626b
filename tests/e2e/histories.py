"""Tables of many histories, and all that a table does: the statements of the acceptance (docs/acceptance.md).

`$t` is the table, `$o` another one like it, `$n` the number of the replica that acts: everything is done by the first one, and
then by the second one. A step is for the acting replica and for the control, a table of the same engine without replication
that says what the rows have to be; the other kinds are made by `each`, `replicas` and `acting`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """One statement, and who gets it."""

    sql: str
    by: str = "acting"
    control: bool = True


def each(sql: str) -> Step:
    """By every replica of its own, and by the control."""
    return Step(sql, by="each")


def replicas(sql: str) -> Step:
    """By every replica, and not by the control, which has it already."""
    return Step(sql, by="each", control=False)


def acting(sql: str) -> Step:
    """By the acting replica alone: the control has it already, or has no such thing and what comes of it is the same."""
    return Step(sql, control=False)


KEPT = "id UInt64, p UInt8 DEFAULT id % 3, v UInt64, d Date DEFAULT '2040-01-01'"
# What the actions after the migration change; the values are on the disk before it.
CHANGED = "".join(
    f", drop_{n} UInt64 DEFAULT id, rename_{n} UInt64 DEFAULT id * 2, modify_{n} UInt64 DEFAULT id * 3" for n in (1, 2)
)
COLUMNS = KEPT + CHANGED
SETTINGS = (
    "old_parts_lifetime = 1, cleanup_delay_period = 1, cleanup_delay_period_random_add = 0, max_cleanup_delay_period = 1"
)
# What a lightweight UPDATE needs.
PATCHES = "enable_block_number_column = 1, enable_block_offset_column = 1"
LIGHTWEIGHT_UPDATE = "enable_lightweight_update"

ROWS = "INSERT INTO $t (id, v) SELECT number + 6 * $n, number * 10 + $n FROM numbers(12)"
PARTITIONED = "PARTITION BY p ORDER BY id"
OTHER = each("CREATE TABLE $o AS $t ENGINE = $engine")
# A replica that has not fetched a patch part when it is cleaned away waits for it for long, and so does APPLY PATCHES.
EVERYWHERE = replicas("SYSTEM SYNC REPLICA $t")
NO_OTHER = each("DROP TABLE $o SYNC")


@dataclass(frozen=True)
class History:
    """What a table has gone through before the migration, and `later` after it; `lacks` has what it cannot do, and why.

    An engine without the setting that it `needs` has no such table; other `settings` that an engine does not know are left out.
    """

    name: str
    steps: tuple = (ROWS,)
    engine: str = "MergeTree"
    arguments: str = ""
    columns: str = COLUMNS
    settings: str = PATCHES
    later: tuple = ()
    lacks: dict[str, str] = field(default_factory=dict)
    needs: str = ""


def _altered(count: int) -> tuple:
    return tuple(f"ALTER TABLE $t ADD COLUMN a{number}_$n UInt64 DEFAULT id + {number}" for number in range(count))


WIDE = "min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0"
UNSUPPORTED = {"lightweight UPDATE": "the engine refuses it of Summing and Aggregating (48)"}
NO_PATCHES = {"lightweight UPDATE": "made without enable_block_number_column"}
TYPES = (
    ", lc LowCardinality(String) DEFAULT toString(id % 3), nu Nullable(UInt64) DEFAULT if(id % 2 = 0, id, NULL)"
    ", m Map(String, UInt64) DEFAULT map('k', id), co UInt64 DEFAULT id CODEC(Delta, ZSTD), ar Array(String) DEFAULT [toString(id)]"
)

HISTORIES = [
    History("plain", settings="", lacks=NO_PATCHES),
    History("empty", steps=()),
    History("altered before the insert", (*_altered(1), ROWS)),
    History("altered many times", (ROWS, *_altered(4), ROWS.replace("numbers(12)", "numbers(20, 12)"))),
    History(
        "renamed column",
        (ROWS, "ALTER TABLE $t RENAME COLUMN old_$n TO new_$n", ROWS.replace("numbers(12)", "numbers(20, 12)")),
        columns=COLUMNS + ", old_1 UInt64 DEFAULT id * 5, old_2 UInt64 DEFAULT id * 7",
    ),
    History("dropped column", (ROWS, "ALTER TABLE $t DROP COLUMN old_$n"), columns=COLUMNS + ", old_1 UInt64, old_2 UInt64"),
    History("updated", (ROWS, "ALTER TABLE $t UPDATE v = v + 1000 WHERE id % 4 = $n")),
    History("deleted", (ROWS, "ALTER TABLE $t DELETE WHERE id % 4 = $n")),
    History("lightweight DELETE", (ROWS, "DELETE FROM $t WHERE id % 4 = $n")),
    History(
        "patches applied",
        (ROWS, "UPDATE $t SET v = v + 1000 WHERE id % 4 = $n", EVERYWHERE, "ALTER TABLE $t APPLY PATCHES"),
        needs=LIGHTWEIGHT_UPDATE,
    ),
    History("merged", (ROWS, "OPTIMIZE TABLE $t FINAL")),
    History(
        "TTL",
        (
            ROWS,
            "INSERT INTO $t (id, v, d) SELECT number, 1, '2001-01-01' FROM numbers(5)",
            "ALTER TABLE $t MODIFY TTL d + INTERVAL $n DAY",
            "OPTIMIZE TABLE $t FINAL",
        ),
    ),
    History("ReplacingMergeTree", (ROWS,), engine="ReplacingMergeTree"),
    History("ReplacingMergeTree(v)", (ROWS, "OPTIMIZE TABLE $t FINAL"), engine="ReplacingMergeTree", arguments="v"),
    History("SummingMergeTree", (ROWS,), engine="SummingMergeTree", arguments="v", lacks=UNSUPPORTED),
    History(
        "AggregatingMergeTree",
        ("INSERT INTO $t (id, v, ag) SELECT number + 6 * $n, number, initializeAggregation('sumState', number) FROM numbers(12)",),
        engine="AggregatingMergeTree",
        columns=COLUMNS.replace("v UInt64", "v SimpleAggregateFunction(sum, UInt64)") + ", ag AggregateFunction(sum, UInt64)",
        settings="allow_dimensions_outside_sorting_key = 1",
        lacks=UNSUPPORTED,
    ),
    History(
        "CollapsingMergeTree",
        (ROWS, "INSERT INTO $t (id, v, sign) SELECT number + 6 * $n, number * 10 + $n, -1 FROM numbers(5)"),
        engine="CollapsingMergeTree",
        arguments="sign",
        columns=COLUMNS + ", sign Int8 DEFAULT 1",
    ),
    History("partition dropped", (ROWS, "ALTER TABLE $t DROP PARTITION $n")),
    History("partition detached and attached", (ROWS, "ALTER TABLE $t DETACH PARTITION $n", "ALTER TABLE $t ATTACH PARTITION $n")),
    History(
        "partition that stays detached",
        ("INSERT INTO $t (id, v) SELECT 3 * number + $n, $n FROM numbers(6)", "ALTER TABLE $t DETACH PARTITION $n"),
        later=("ALTER TABLE $t ATTACH PARTITION $n",),
    ),
    History(
        "partition replaced",
        (
            ROWS,
            OTHER,
            "INSERT INTO $o (id, v) SELECT number, 5 FROM numbers(9)",
            "ALTER TABLE $t REPLACE PARTITION $n FROM $o",
            NO_OTHER,
        ),
    ),
    History(
        "partition moved here",
        (ROWS, OTHER, "INSERT INTO $o (id, v) SELECT number, 5 FROM numbers(9)", "ALTER TABLE $o MOVE PARTITION $n TO TABLE $t", NO_OTHER),
    ),
    History("truncated", (ROWS, "TRUNCATE TABLE $t", ROWS)),
    History("quorum", (ROWS.replace(" SELECT", " SETTINGS insert_quorum = 2 SELECT"),)),
    History("skipping index", (ROWS,), columns=COLUMNS + ", INDEX by_d d TYPE minmax GRANULARITY 1"),
    History("projection", (ROWS,), columns=COLUMNS + ", PROJECTION sums (SELECT p, sum(v) GROUP BY p)", settings=f"{PATCHES}, lightweight_mutation_projection_mode = 'rebuild'"),
    History("wide parts", (ROWS,), settings=f"{PATCHES}, {WIDE}"),
    History("types and codecs", (ROWS,), columns=COLUMNS + TYPES, settings=f"{PATCHES}, {WIDE}"),
]


@dataclass(frozen=True)
class Action:
    """What is demanded of every table, of both replicas; of an engine that has the setting that it `needs`."""

    name: str
    steps: tuple = ()
    needs: str = ""


def _again(sql: str) -> tuple:
    return (sql, acting(sql), replicas(sql))


ACTIONS = [
    Action("INSERT", ("INSERT INTO $t (id, v) SELECT number + 100 * $n, 1 FROM numbers(6)",)),
    Action("INSERT by quorum", ("INSERT INTO $t (id, v) SETTINGS insert_quorum = 2 SELECT number + 110 * $n, 2 FROM numbers(3)",)),
    Action("the same block again", _again("INSERT INTO $t (id, v) VALUES (12$n, 3), (13$n, 4), (14$n, 5)")),
    Action("ADD COLUMN", ("ALTER TABLE $t ADD COLUMN added_$n UInt64 DEFAULT id * 11",)),
    Action("DROP COLUMN", ("ALTER TABLE $t DROP COLUMN drop_$n",)),
    Action("RENAME COLUMN", ("ALTER TABLE $t RENAME COLUMN rename_$n TO renamed_$n",)),
    Action("MODIFY COLUMN", ("ALTER TABLE $t MODIFY COLUMN modify_$n String",)),
    Action("COMMENT COLUMN", (each("ALTER TABLE $t COMMENT COLUMN id 'by $n'"),)),
    Action(
        "MODIFY TTL",
        (
            "INSERT INTO $t (id, v, d) SELECT number + 150 * $n, 4, '2002-02-02' FROM numbers(3)",
            "ALTER TABLE $t MODIFY TTL d + INTERVAL $n MONTH",
            "OPTIMIZE TABLE $t FINAL",
        ),
    ),
    Action("ADD and MATERIALIZE INDEX", ("ALTER TABLE $t ADD INDEX by_v_$n v TYPE minmax", "ALTER TABLE $t MATERIALIZE INDEX by_v_$n")),
    Action("UPDATE", ("ALTER TABLE $t UPDATE d = '2041-01-0$n' WHERE id % 5 = $n",)),
    Action("DELETE", ("ALTER TABLE $t DELETE WHERE id % 13 = $n",)),
    Action("lightweight DELETE", ("DELETE FROM $t WHERE id % 11 = $n",)),
    Action(
        "lightweight UPDATE",
        ("UPDATE $t SET d = '2042-01-0$n' WHERE id % 7 = $n", EVERYWHERE, "ALTER TABLE $t APPLY PATCHES"),
        needs=LIGHTWEIGHT_UPDATE,
    ),
    Action("OPTIMIZE FINAL", (ROWS, "OPTIMIZE TABLE $t FINAL")),
    Action("DETACH PARTITION", ("ALTER TABLE $t DETACH PARTITION $n",)),
    Action("ATTACH PARTITION", ("ALTER TABLE $t ATTACH PARTITION $n",)),
    Action(
        "FETCH PART",
        (
            acting("ALTER TABLE $t FETCH PART '$part' FROM '$path'"),
            acting("ALTER TABLE $t DROP PART '$part'"),
            acting("ALTER TABLE $t ATTACH PART '$part'"),
        ),
    ),
    Action(
        "MOVE PARTITION",
        (each("CREATE TABLE IF NOT EXISTS $o AS $t ENGINE = $engine"), "ALTER TABLE $t MOVE PARTITION $n TO TABLE $o"),
    ),
    Action("REPLACE PARTITION", ("INSERT INTO $o (id, v) SELECT 300 + $n, 5", "ALTER TABLE $t REPLACE PARTITION $n FROM $o")),
    Action("ATTACH PARTITION FROM", ("ALTER TABLE $t ATTACH PARTITION $n FROM $o",)),
    Action("EXCHANGE TABLES", (each("EXCHANGE TABLES $t AND $o"), "INSERT INTO $t (id, v) SELECT 310 + $n, 6")),
    Action("RENAME TABLE", (each("RENAME TABLE $t TO ${t}_away"), "INSERT INTO ${t}_away (id, v) SELECT 320 + $n, 7", each("RENAME TABLE ${t}_away TO $t"))),
    Action("DROP PARTITION", ("INSERT INTO $t (id, v) SELECT number + 330, 8 FROM numbers(9)", "ALTER TABLE $t DROP PARTITION $n")),
]

# After a second migration.
AFTER_ALL = [
    Action("INSERT after that", ("INSERT INTO $t (id, v) SELECT number + 400 * $n, 9 FROM numbers(9)",)),
    Action("ALTER after that", ("ALTER TABLE $t ADD COLUMN last_$n UInt64 DEFAULT id", "ALTER TABLE $t MODIFY COLUMN last_$n String")),
    Action("UPDATE, DELETE after that", ("ALTER TABLE $t UPDATE d = '2043-01-0$n' WHERE id % 3 = $n", "ALTER TABLE $t DELETE WHERE id % 5 = $n")),
    Action("TRUNCATE", ("TRUNCATE TABLE $t", ROWS)),
]
# Everything that is demanded, in its order.
DEMANDED = [
    "RESTORED",
    *(action.name for action in ACTIONS),
    "a third replica",
    "DROP of a replica",
    "a second migration",
    *(action.name for action in AFTER_ALL),
]
