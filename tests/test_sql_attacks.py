"""What somebody may try with an SQL console, one attack a case: nothing is read, written, reached, or taken beyond limits.

Each attack runs in a process of its own, as in the server. Around it lie traps: files with a canary, a database beside
the log, a socket that listens. After each attack they are as before and the process is gone.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest

from mlx_panel.audit.sql_child import Child
from mlx_panel.audit.sql_children import Children
from mlx_panel.errors import (
    InvalidSql,
    MlxPanelError,
    SqlMemoryExceeded,
    SqlResultTooLarge,
    SqlTimeout,
)
from mlx_panel.footprint import footprint
from mlx_panel.sandbox.limits import SLACK
from mlx_panel.sandbox.wire import Query

CANARY = "QUETZALCOATL"
MEMORY = 128 << 20
SECONDS = 0.7
OWN = 120 << 20  # what a process takes before any query, generously

# Name, SQL, and how it must end; None: it may answer, without the canary.
REFUSED = "One SELECT"
ATTACKS: list[tuple[str, str, type[MlxPanelError] | None, str]] = [
    # files
    ("read_csv", "SELECT * FROM read_csv('{trap}/canary.csv')", InvalidSql, "Permission Error"),
    ("read_csv of several", "SELECT * FROM read_csv(['{trap}/canary.csv', '{trap}/canary.csv'])", InvalidSql, "Permission Error"),
    ("read_text", "SELECT content FROM read_text('{trap}/canary.csv')", InvalidSql, "Permission Error"),
    ("read_blob", "SELECT content FROM read_blob('{trap}/*')", InvalidSql, "Permission Error"),
    ("read_json", "SELECT * FROM read_json('{trap}/canary.json')", InvalidSql, "Permission Error"),
    ("read_ndjson_objects", "SELECT * FROM read_ndjson_objects('{trap}/canary.json')", InvalidSql, "Permission Error"),
    ("read_parquet", "SELECT * FROM read_parquet('{trap}/canary.parquet')", InvalidSql, "Permission Error"),
    ("parquet_metadata", "SELECT * FROM parquet_metadata('{trap}/canary.parquet')", InvalidSql, "Permission Error"),
    ("read_duckdb", "SELECT * FROM read_duckdb('{trap}/other.duckdb', table_name = 'secrets')", InvalidSql, "Permission Error"),
    ("a file's name as a table", "SELECT * FROM '{trap}/canary.csv'", InvalidSql, "Permission Error"),
    ("a relative name as a table", "SELECT * FROM 'canary.csv'", InvalidSql, "Permission Error"),
    ("glob", "SELECT * FROM glob('{trap}/*')", InvalidSql, "Permission Error"),
    ("sniff_csv", "SELECT * FROM sniff_csv('{trap}/canary.csv')", InvalidSql, "Permission Error"),
    ("the process's own files", "SELECT * FROM read_text('/proc/self/environ')", InvalidSql, "Permission Error"),
    ("its pipes", "SELECT * FROM read_text('/dev/stdin')", InvalidSql, "Permission Error"),
    # Python and other databases
    ("a variable of Python", "SELECT * FROM order_", InvalidSql, "does not exist"),
    ("python_map_function", "SELECT * FROM python_map_function((SELECT 1))", InvalidSql, "callable"),
    ("arrow_scan of an address", "SELECT * FROM arrow_scan(1::UBIGINT, 2::UBIGINT, 3::UBIGINT)", InvalidSql, "No function"),
    ("pandas_scan of an address", "SELECT * FROM pandas_scan(4096)", InvalidSql, "No function"),
    ("another database's table", "SELECT * FROM other.main.secrets", InvalidSql, "does not exist"),
    ("every table of every database", "SELECT * FROM duckdb_tables() WHERE database_name NOT IN ('log', 'memory', 'system', 'temp')", None, ""),
    ("ATTACH", "ATTACH '{trap}/other.duckdb' AS other", InvalidSql, REFUSED),
    ("DETACH", "DETACH log", InvalidSql, REFUSED),
    ("USE", "USE memory", InvalidSql, REFUSED),
    # writing out
    ("COPY TO", "COPY audit TO '{trap}/out.csv'", InvalidSql, REFUSED),
    ("COPY a query TO", "COPY (SELECT 1) TO '{trap}/out.parquet' (FORMAT parquet)", InvalidSql, REFUSED),
    ("COPY FROM", "COPY audit FROM '{trap}/canary.csv'", InvalidSql, REFUSED),
    ("COPY FROM DATABASE", "COPY FROM DATABASE log TO memory", InvalidSql, REFUSED),
    ("EXPORT DATABASE", "EXPORT DATABASE '{trap}/out'", InvalidSql, REFUSED),
    ("IMPORT DATABASE", "IMPORT DATABASE '{trap}/out'", InvalidSql, REFUSED),
    ("a log into a file", "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{trap}/out'}})", InvalidSql, "locked"),
    ("a profile into a file", "SELECT * FROM enable_profiling(save_location = '{trap}/out.json')", InvalidSql, "locked"),
    # extensions, network
    ("INSTALL", "INSTALL httpfs", InvalidSql, REFUSED),
    ("LOAD", "LOAD '{trap}/canary.csv'", InvalidSql, REFUSED),
    ("http", "SELECT * FROM read_csv('http://127.0.0.1:{port}/x.csv')", InvalidSql, "Permission Error"),
    ("s3", "SELECT * FROM 's3://127.0.0.1:{port}/x.parquet'", InvalidSql, "Permission Error"),
    ("a function that wants an extension", "SELECT ST_Point(1, 2)", InvalidSql, "spatial"),
    ("an external resource", "SELECT * FROM register_external_resource('a', 'b')", InvalidSql, "No function"),
    # settings and secrets
    ("SET", "SET threads = 8", InvalidSql, REFUSED),
    ("RESET", "RESET lock_configuration", InvalidSql, REFUSED),
    ("PRAGMA", "PRAGMA memory_limit = '100GB'", InvalidSql, REFUSED),
    ("settings", "SELECT * FROM duckdb_settings()", None, ""),
    ("one setting", "SELECT current_setting('secret_directory'), current_setting('home_directory')", None, ""),
    ("an environment variable", "SELECT getenv('CANARY_VARIABLE')", InvalidSql, "does not exist"),
    ("secrets", "SELECT * FROM duckdb_secrets()", None, ""),
    ("CREATE SECRET", "CREATE SECRET s (TYPE http)", InvalidSql, REFUSED),
    # changing
    ("INSERT", "INSERT INTO audit SELECT * FROM audit", InvalidSql, REFUSED),
    ("UPDATE", "UPDATE audit SET status = 'error'", InvalidSql, REFUSED),
    ("DELETE", "DELETE FROM audit", InvalidSql, REFUSED),
    ("TRUNCATE", "TRUNCATE audit", InvalidSql, REFUSED),
    ("MERGE", "MERGE INTO audit USING (SELECT 1 AS id) n ON audit.id = n.id WHEN MATCHED THEN DELETE", InvalidSql, REFUSED),
    ("CREATE TABLE", "CREATE TABLE t AS SELECT 1", InvalidSql, REFUSED),
    ("CREATE TEMP TABLE", "CREATE TEMP TABLE t AS SELECT 1", InvalidSql, REFUSED),
    ("CREATE MACRO", "CREATE MACRO f(x) AS x", InvalidSql, REFUSED),
    ("CREATE VIEW", "CREATE OR REPLACE VIEW audit AS SELECT 1", InvalidSql, REFUSED),
    ("a trigger", "CREATE TRIGGER t AFTER INSERT ON audit FOR EACH STATEMENT DELETE FROM audit", InvalidSql, REFUSED),
    ("a sequence", "CREATE SEQUENCE s", InvalidSql, REFUSED),
    ("nextval", "SELECT nextval('s')", InvalidSql, "does not exist"),
    ("ALTER", "ALTER TABLE audit DROP COLUMN status", InvalidSql, REFUSED),
    ("DROP", "DROP TABLE audit", InvalidSql, REFUSED),
    ("DELETE in a CTE", "WITH x AS (DELETE FROM audit RETURNING *) SELECT * FROM x", InvalidSql, "read-only"),
    ("INSERT in a CTE", "WITH x AS (INSERT INTO audit (id) VALUES (9) RETURNING *) SELECT * FROM x", InvalidSql, "read-only"),
    ("EXPLAIN ANALYZE DELETE", "EXPLAIN ANALYZE DELETE FROM audit", InvalidSql, REFUSED),
    ("a serialised DELETE", "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('WITH x AS (DELETE FROM log.audit RETURNING *) SELECT * FROM x'))", InvalidSql, "read-only|top level"),
    ("query()", "SELECT * FROM query('WITH x AS (DELETE FROM audit RETURNING *) SELECT * FROM x')", InvalidSql, "top level"),
    ("query_table()", "SELECT * FROM query_table('{trap}/canary.csv')", InvalidSql, "Permission Error"),
    ("VACUUM", "VACUUM", InvalidSql, REFUSED),
    ("CHECKPOINT", "FORCE CHECKPOINT", InvalidSql, REFUSED),
    ("checkpoint()", "SELECT * FROM checkpoint('log')", None, ""),
    ("CALL", "CALL force_checkpoint('log')", InvalidSql, REFUSED),
    # more than one statement, or one in disguise
    ("two statements", "SELECT 1; DELETE FROM audit", InvalidSql, "2 statements"),
    ("two behind a comment", "SELECT 1 /* ; */ -- ;\n; DROP TABLE audit; --", InvalidSql, "2 statements"),
    ("one in other letters", "ＤＥＬＥＴＥ FROM audit", InvalidSql, "syntax error"),
    ("a zero byte", "SELECT 1\0; DELETE FROM audit", InvalidSql, "2 statements"),
    ("BEGIN", "BEGIN TRANSACTION READ WRITE", InvalidSql, REFUSED),
    ("COMMIT and on", "COMMIT; DELETE FROM audit", InvalidSql, "2 statements"),
    ("PREPARE", "PREPARE p AS DELETE FROM audit", InvalidSql, REFUSED),
    ("EXECUTE", "EXECUTE p", InvalidSql, REFUSED),
    ("nothing", "  -- nothing", InvalidSql, "no statement"),
    # taking too much
    ("a long text", "SELECT repeat('x', 1000000000)", SqlMemoryExceeded, "more memory than 128 MiB"),
    ("two long texts", "SELECT length(repeat('x', 1000000000) || repeat('y', 1000000000))", SqlMemoryExceeded, "more memory than 128 MiB"),
    ("a padded text", "SELECT printf('%1000000000d', 1)", SqlMemoryExceeded, "more memory than 128 MiB"),
    ("a long list", "SELECT list(a.range) FROM range(100000) a, range(100000) b", SqlMemoryExceeded, "more memory than 128 MiB"),
    ("a long list at once", "SELECT range(1000000000)", SqlMemoryExceeded, "more memory than 128 MiB"),
    ("a sort", "SELECT a.range FROM range(100000) a, range(10000) b ORDER BY random()", SqlMemoryExceeded, "more memory than 128 MiB"),
    ("a huge cell", "SELECT repeat('x', 20000000)", SqlResultTooLarge, "larger than 4,000,000 bytes"),
    ("many cells", "SELECT repeat('x', 10000) FROM range(1000)", SqlResultTooLarge, "larger than 4,000,000 bytes"),
    ("deep brackets", "SELECT " + "(" * 3000 + "1" + ")" * 3000, InvalidSql, "depth"),
    ("a deep value", "SELECT " + "[" * 300 + "1" + "]" * 300, SqlMemoryExceeded, "more memory"),
    ("a cross join", "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = 3", SqlTimeout, "longer than"),
    ("a recursion without end", "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t", SqlTimeout, "longer than"),
    ("a sleep", "SELECT pg_sleep(600)", SqlTimeout, "longer than"),
    ("a long number", "SELECT repeat('9', 1000000)::BIGNUM", SqlTimeout, "longer than"),
    ("a regular expression", "SELECT regexp_matches(repeat('a', 50000), '(a*)*(a*)*(a*)*b')", None, ""),
]  # fmt: skip


class Traps:
    """The log at `log`, and what must not be touched, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "trap"
        self.folder.mkdir()
        self.log = folder / "audit.duckdb"
        with duckdb.connect(str(self.log)) as log:
            log.execute("CREATE TABLE audit AS SELECT range AS id, 'success' AS status FROM range(1000)")
        with duckdb.connect(str(self.folder / "other.duckdb")) as other:
            other.execute(f"CREATE TABLE secrets AS SELECT '{CANARY}' AS secret")
            other.execute(f"COPY secrets TO '{self.folder / 'canary.parquet'}'")
        (self.folder / "canary.csv").write_text(f"secret\n{CANARY}\n")
        (self.folder / "canary.json").write_text(f'{{"secret": "{CANARY}"}}\n')
        self.cwd = folder / "empty"
        self.cwd.mkdir()
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.listener.setblocking(False)
        self.before = self.state()

    def state(self) -> dict[str, str]:
        """Every file and what is in it."""
        files = sorted(path for path in self.folder.parent.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def check(self) -> None:
        assert self.state() == self.before
        with pytest.raises(BlockingIOError):
            self.listener.accept()

    def query(self, sql: str) -> Query:
        text = sql.replace("{{", "{").replace("}}", "}")
        text = text.replace("{trap}", str(self.folder)).replace("{port}", str(self.listener.getsockname()[1]))
        return Query(str(self.log), text, 10_000, 4_000_000, MEMORY, cpu_seconds=30)


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traps]:
    os.environ["CANARY_VARIABLE"] = CANARY
    found = Traps(tmp_path_factory.mktemp("attacks"))
    yield found
    found.listener.close()
    del os.environ["CANARY_VARIABLE"]


@pytest.fixture(scope="module")
def children(traps: Traps) -> Iterator[Children]:
    found = Children(traps.cwd)
    yield found
    found.close(SqlTimeout())


@pytest.fixture
def child(children: Children) -> Iterator[Child]:
    found = children.take()
    found.wait()
    children.stock()  # the next one starts meanwhile
    yield found
    children.done(found)


class Weighing:
    """The most memory that a process had while this ran."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Weighing:
        self._thread.start()
        return self

    def __exit__(self, *gone: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, footprint(self._pid))


@pytest.mark.parametrize(
    ("sql", "error", "word"), [case[1:] for case in ATTACKS], ids=[case[0] for case in ATTACKS]
)
def test_an_attack_gets_nowhere(
    sql: str, error: type[MlxPanelError] | None, word: str, traps: Traps, child: Child
) -> None:
    seconds = SECONDS if error is SqlTimeout else 20.0
    begun = time.monotonic()
    with Weighing(child.pid) as weighing:
        if error is None:
            _, body = child.query(traps.query(sql), seconds)
            assert CANARY not in body.decode()
        else:
            with pytest.raises(error, match=word) as caught:
                child.query(traps.query(sql), seconds)
            assert CANARY not in str(caught.value)
    assert time.monotonic() - begun < seconds + 5
    assert weighing.most < OWN + MEMORY + SLACK
    assert not psutil.pid_exists(child.pid)
    traps.check()


def test_the_cases_are_as_many_as_promised() -> None:
    assert len({name for name, *_ in ATTACKS}) == len(ATTACKS) >= 41


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)


RESTRICTED = "from mlx_panel.sandbox.limits import restrict; import os, socket, resource; held = os.open({path!r}, os.O_RDWR); restrict(64 << 20, 1)\n"


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("open('/dev/null')", "Too many open files"),
        ("socket.socket()", "Too many open files"),
        ("os.pipe()", "Too many open files"),
        ("os.write(held, b'x')", "File too large"),
        ("bytearray(1 << 30)", "MemoryError"),
    ],
)
def test_the_system_holds_what_duckdb_would_let_through(code: str, word: str, tmp_path: Path) -> None:
    if word == "MemoryError" and sys.platform != "linux":
        pytest.skip("only the parent holds memory here")
    path = tmp_path / "held"
    path.touch()
    ended = python(RESTRICTED.format(path=str(path)) + code)
    assert ended.returncode == 1
    assert word in ended.stderr
    assert path.read_bytes() == b""


def test_the_system_ends_what_computes_for_too_long(tmp_path: Path) -> None:
    (tmp_path / "held").touch()
    ended = python(RESTRICTED.format(path=str(tmp_path / "held")) + "while True: pass")
    assert ended.returncode < 0


def test_the_parent_ends_what_takes_more_memory_than_it_may(traps: Traps) -> None:
    """What a system without a limit on memory leaves to it. Here it allows less than the process has from the start."""
    child = Child(traps.cwd, own_bytes=(1 << 20) - MEMORY - SLACK)
    with pytest.raises(SqlMemoryExceeded):
        child.query(traps.query("SELECT pg_sleep(600)"), 10)


def test_a_process_inherits_nothing(traps: Traps) -> None:
    secret = os.open(traps.folder / "canary.csv", os.O_RDONLY)
    os.set_inheritable(secret, True)
    child = Child(traps.cwd)
    child.wait()
    process = psutil.Process(child.pid)
    try:
        assert set(process.environ()) <= {"PYTHONPATH", "MALLOC_ARENA_MAX", "LC_ALL", "TZ"}
        assert process.cwd() == str(traps.cwd)
        assert not process.open_files()
        assert not process.net_connections()
        assert os.getsid(child.pid) == child.pid
    finally:
        child.end()
        os.close(secret)


ORPHAN = """
import sys, threading
from pathlib import Path
from mlx_panel.audit.sql_child import Child
from mlx_panel.sandbox.wire import Query
child = Child(Path(sys.argv[1]))
child.wait()
print(child.pid, flush=True)
child.query(Query(sys.argv[2], "SELECT pg_sleep(600)", 1, 1000, 64 << 20, 60), 600)
"""


def test_a_process_ends_with_its_parent(traps: Traps) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(traps.cwd), str(traps.log)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(10)
