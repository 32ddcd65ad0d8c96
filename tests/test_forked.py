import os
import signal

from tests.forked import Command, run

STATEMENT = ("timeit", "--number=1", "--repeat=1", "--setup=import os, sys, time")


def test_a_module_is_run_as_by_python_with_torch_imported_already(tmp_path):
    text = "print('torch' in sys.modules, os.getcwd(), os.environ['A'], flush=True); sys.exit('bad')"
    done = run(*STATEMENT, text, cwd=tmp_path, env={"A": "b"})
    assert done.returncode == 1
    assert done.stdout == f"True {tmp_path} b\n"
    assert done.stderr.endswith("SystemExit: bad\n")


def test_a_signal_ends_it(tmp_path):
    with Command(*STATEMENT, "time.sleep(600)") as process:
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


def test_its_session_is_its_own():
    with Command(*STATEMENT, "print(os.getsid(0) == os.getpid())", merged=True) as process:
        output, errors = process.communicate()
    assert output.startswith("True\n")
    assert errors == ""
    assert os.getsid(0) != process.pid
