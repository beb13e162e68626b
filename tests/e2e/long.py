"""Which tests run only when all are wanted (`tests/run.sh --matrix`).

They are the further cases of a family: another point at which the same program is killed, another file of the same
folder. The others run each time: every test function, with those of its cases that differ most. By module, and within it
by a regular expression of `test_name[case]`.
"""

LONG = {
    "test_away.py": (
        r"identity_under_way\[\]",
        r"between_steps\[detached\]",
        r"in_clean\[(begun-.*|half-False)\]",
        r"away_in_restore\[(False-ClickHouse|True-ZooKeeper)\]",
    ),
    "test_by_hand.py": (r"\[(first|other way round)\]",),
    "test_crashes.py": (
        r"under_way\[(detach-(sync|done)|settle-begun|clean-(record|begun|last)|restart-(hook|done))-",
        r"under_way\[(attach-(witness|done)|restore-reference-done|restore-follower-done)-",
        r"state_folder\[(detach-sync|clean-(record|begun|last)|attach-witness)\]",
        r"made_anew\[clean-(begun|last)\]",
    ),
    "test_disk_full.py": (r"\[once\]",),
    "test_durable.py": (r"\[(slow disk|1|15)\]",),
    "test_exports.py": (r"\[1500-400\]",),
    "test_grants.py": (r"no_more\[(24\.8-once|25\.8-never)\]",),
    "test_hosts_gone.py": (r"agent_lives\[(detached|restore of a follower)-",),
    "test_keeper.py": (
        r"a_migration\[(25\.3|26\.7-create2)\]",
        r"\[(applied--7|not applied--4)\]",
        r"written_to\[25\.3\]",
    ),
    "test_killed_while_mending.py": (r"dies_again\[4\]", r"rename\[(moving-in-order|attaching)\]"),
    "test_loss_attached_again.py": (r"\[(retry-not-registered|away-attaching)\]", r"when_restored\[not-registered\]"),
    "test_loss_caches.py": (r"stale_cache\[(PRIMARY INDEX|UNCOMPRESSED)\]", r"readers_never.*\[once\]"),
    "test_loss_ddl.py": (r"\[between-sync-and-detach\]",),
    "test_loss_detached.py": (r"\[held\]",),
    "test_loss_diverged.py": (r"\[(each_has_more|lagging|instant)\]",),
    "test_loss_dropped_table.py": (
        r"after_the_clean\[ch-01-2\]",
        r"and_account\[ch-01-1\]",
        r"follower\[before\]",
        r"renamed\[restored\]",
    ),
    "test_loss_killed_restore.py": (
        r"reference\[(before|moved|first-not-registered|between)\]",
        r"follower\[(before|cloning|not-registered)\]",
    ),
    "test_loss_state.py": (
        r"lost\[all-(detached|attached|restored)\]",
        r"lost\[coordinator-(detached|attached|restoring|restored)\]",
        r"lost\[known-(detached|cleaned|attached|restored)\]",
        r"note\[lost\]",
    ),
    "test_loss_state_restoring.py": (
        r"reference\[(before|moved|attaching-first|between|not-registered)\]",
        r"follower\[not-registered\]",
        r"settings\[note\]",
    ),
    "test_loss_store.py": (r"rolled_back\[0\]", r"lost\[detached\]", r"copied\[abort\]"),
    "test_readers.py": (r"no_server\[(24\.8-once|25\.8-never|26\.3-.*)\]", r"gate\[connections\]"),
    "test_runbook.py": (r"\[backup\]",),
    "test_ways_out.py": (
        r"\[(never-started|sync|settle)\]",
        r"leaves_no_trace\[coordinator\]",
        r"forward\[(clean-begun|restart-hook|witness|attach|finish)\]",
    ),
}
