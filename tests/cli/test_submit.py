"""``turningpoint submit``: scripts that bash and schedulers understand, whatever the arguments hold."""

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.scheduling import SCHEDULERS, Job, scripts

RUN = ["generate", "digits", "8", "--out", "runs/a"]
AGAIN = ["generate", "digits", "8", "--steps", "4", "--out", "runs/b"]
ARGUMENTS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=6)
NUMBERED = {"SLURM_ARRAY_TASK_ID": "1", "PBS_ARRAY_INDEX": "1", "SLURM_ARRAY_JOB_ID": "77"}


def program(folder, name, text):
    """An executable script of this name in a folder that comes first on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """Runs a job script with a turningpoint that writes down what it is given; returns the calls."""
    folder = tmp_path_factory.mktemp("desk")
    program(folder / "bin", "turningpoint", """printf '%s\\0' "$@" $'\\a' >> calls; [[ $2 != fails ]]""")

    def run(script, index="0", status=0):
        (folder / "calls").unlink(missing_ok=True)
        (folder / "calls").touch()
        environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PBS_O_WORKDIR": str(folder)}
        environment |= dict.fromkeys(NUMBERED, index) | {"LANG": "C.UTF-8"}
        done = subprocess.run(
            ["bash", "-c", script], env=environment, cwd=folder, capture_output=True, check=False
        )
        assert done.returncode == status, done.stderr
        calls = (folder / "calls").read_bytes().decode().split("\a\0")
        return [call.split("\0")[:-1] for call in calls[:-1]]

    return run


def both(job, then=()):
    return [text for scheduler in SCHEDULERS for text in scripts(job, then, scheduler).values()]


@given(ARGUMENTS)
@settings(max_examples=25)
def test_arguments_survive(stub, arguments):
    arguments = [a.replace("\a", "") for a in arguments]  # the stub's own mark
    for rounds in (1, 2):
        for text in both(Job("a", [["trace", *arguments], ["clone", *arguments]], rounds=rounds)):
            assert stub(text) == [["trace", *arguments], ["clone", *arguments]]
    for text in both(Job("a", [["trace", *arguments]], rounds=2)):
        assert stub(text) == [["trace", *arguments]]


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("commands", [[RUN], [RUN, AGAIN]])
def test_bash_reads_every_form(commands, rounds, workers, gpus):
    job = Job("a", commands, workers, 2.0, gpus, rounds=rounds, account="lab", queue="fast", setup=["true"])
    for text in both(job, [["report", "runs/a"]]):
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        body = [line for line in text.splitlines() if not line.startswith("#")]
        assert text.startswith("#!/bin/bash\n")
        assert not any(
            line.startswith(("#PBS", "#SBATCH")) for line in text.split(body[1], 1)[1].splitlines()
        )


def test_workers_begin_with_different_commands_and_do_all(stub):
    for text in both(Job("a", [["a"], ["b"], ["c"]], workers=3, rounds=2)):
        assert stub(text, "2") == [["c"], ["a"], ["b"]]


def test_a_command_that_fails_does_not_keep_the_others(stub):
    for rounds in (1, 2):
        for text in both(Job("a", [["a", "fails"], ["b"]], rounds=rounds)):
            assert stub(text, status=1) == [["a", "fails"], ["b"]]
    then = [
        list(scripts(Job("a", [["a"]]), [["onset", "fails"], ["report", "x y"]], s).values())[1]
        for s in SCHEDULERS
    ]
    for text in then:
        assert stub(text, status=1) == [["onset", "fails"], ["report", "x y"]]


def directives(text, mark):
    return [line.removeprefix(mark).strip() for line in text.splitlines() if line.startswith(mark)]


def test_what_is_asked_of_slurm():
    job = Job("a", [RUN], 8, 1.5, 1, 4, "16g", "lab", "fast", ["module load cuda"], 3)
    first, after = scripts(job, [["report", "runs/a"]], "slurm").values()
    assert directives(first, "#SBATCH") == [
        "--job-name=a",
        "--array=0-7",
        "--output=logs/%x-%A_%a.out",
        "--open-mode=append",
        "--time=01:30:00",
        "--ntasks=1",
        "--cpus-per-task=4",
        "--mem=16G",
        "--gres=gpu:1",
        "--account=lab",
        "--partition=fast",
        "--requeue",
        "--signal=B:USR1@120",
    ]
    assert not {"--array=0-7", "--gres=gpu:1", "--signal=B:USR1@120"} & set(directives(after, "#SBATCH"))
    assert "export OMP_NUM_THREADS=4\nmodule load cuda\n" in first
    assert "export OMP_NUM_THREADS=4\nmodule load cuda\n" in after


def test_what_is_asked_of_pbs():
    job = Job("a", [RUN], 8, 100.01, 2, 4, "500M", "lab", "fast")
    first, after = scripts(job, [["report", "runs/a"]], "pbs").values()
    assert directives(first, "#PBS") == [
        "-N a",
        "-S /bin/bash",
        "-J 0-7",
        "-j oe",
        "-o logs/",
        "-l walltime=100:00:36",
        "-l select=1:ncpus=4:ngpus=2:mem=500mb",
        "-A lab",
        "-q fast",
        "-r y",
    ]
    assert "-l select=1:ncpus=4:mem=500mb" in directives(after, "#PBS")
    assert "-J 0-7" not in directives(after, "#PBS")


@pytest.mark.parametrize(("restarts", "requeued"), [("0", ["requeue", "77_1"]), ("1", [])])
@pytest.mark.parametrize("commands", [[RUN], [RUN, AGAIN]])
def test_the_time_limit_sends_a_worker_back_into_the_queue(tmp_path, commands, restarts, requeued):
    program(
        tmp_path / "bin", "turningpoint", 'echo $$ > begun; trap "touch killed; exit" TERM; sleep 60 & wait'
    )
    program(tmp_path / "bin", "scontrol", 'echo "$@" > scontrol')
    environment = os.environ | NUMBERED | {"SLURM_RESTART_COUNT": restarts}
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    (text,) = scripts(Job("a", commands, rounds=2), [], "slurm").values()
    worker = subprocess.Popen(["bash", "-c", text], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        begun = time.monotonic()
        while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
            assert time.monotonic() - begun < 30
            time.sleep(0.02)
        worker.send_signal(signal.SIGUSR1)
        assert worker.wait(30) == 1
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
    assert (tmp_path / "killed").exists()
    said = (tmp_path / "scontrol").read_text().split() if (tmp_path / "scontrol").exists() else []
    assert said == requeued


SUBMISSION = ["--workers", 2, "--hours", 1, "--then", "measure runs/a", "--then", "report runs/a", "--", *RUN]


def test_print_prints_and_does_nothing_else(command):
    for scheduler in SCHEDULERS:
        status, out, _ = command("submit", "--scheduler", scheduler, "--print", *SUBMISSION)
        assert status == 0
        rounds = 10 if scheduler == "slurm" else 1
        wanted = scripts(
            Job("a", [RUN], 2, 1.0, rounds=rounds), [["measure", "runs/a"], ["report", "runs/a"]], scheduler
        )
        assert out == "\n".join(wanted.values())
        status, out, _ = command("submit", "--scheduler", scheduler, "--print", "--json", *SUBMISSION)
        assert json.loads(out)["scripts"] == {str(path): text for path, text in wanted.items()}
    assert os.listdir() == []


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """A machine with nothing but these programs, which write down how they were called."""

    def install(**answers):
        folder = tmp_path / "cluster"
        for name, answer in answers.items():
            program(folder, name, f'printf "%s\\n" "$*" >> {shlex.quote(str(tmp_path / "calls"))}; {answer}')
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install


def calls(tmp_path):
    return (tmp_path / "calls").read_text().splitlines()


def test_slurm_takes_the_array_and_then_the_analysis(command, scheduler, tmp_path):
    scheduler(sbatch='echo "$(( $(wc -l < calls) + 40 ));cluster"')
    status, out, _ = command("submit", *SUBMISSION)
    assert status == 0
    assert calls(tmp_path) == [
        "--parsable logs/a.slurm",
        "--parsable --dependency=afterany:41 logs/a-then.slurm",
    ]
    assert "sbatch has taken logs/a.slurm and logs/a-then.slurm as 41, 42." in out
    _, printed, _ = command("submit", "--print", *SUBMISSION)
    assert printed == "\n".join(Path("logs", name).read_text() for name in ("a.slurm", "a-then.slurm"))


def test_pbs_takes_an_array_for_every_round(command, scheduler, tmp_path):
    scheduler(qsub='echo "$(wc -l < calls)[].server"')
    status, out, _ = command("submit", "--scheduler", "pbs", "--rounds", 3, "--json", *SUBMISSION)
    assert status == 0
    assert calls(tmp_path) == [
        "logs/a.pbs",
        "-W depend=afterany:1[].server logs/a.pbs",
        "-W depend=afterany:2[].server logs/a.pbs",
        "-W depend=afterany:3[].server logs/a-then.pbs",
    ]
    found = json.loads(out)
    assert found["jobs"] == ["1[].server", "2[].server", "3[].server", "4[].server"]
    assert found["scripts"] == ["logs/a.pbs", "logs/a-then.pbs"]


def test_without_a_scheduler_the_scripts_are_there(command, scheduler):
    scheduler()
    status, _, said = command("submit", *SUBMISSION)
    assert status == 2
    assert "this machine has no sbatch" in said
    assert sorted(os.listdir("logs")) == ["a-then.slurm", "a.slurm"]


def test_what_the_scheduler_refuses_is_said(command, scheduler):
    scheduler(sbatch='echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1')
    status, _, said = command("submit", *SUBMISSION)
    assert status == 1
    assert (
        said
        == "error: sbatch refuses logs/a.slurm: sbatch: error: Batch job submission failed: Invalid account.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "generte", "digits", "--out", "a"], "the command is 'generte'; accepted: check, clone"),
        (["--", "submit", "--out", "a"], "the command is 'submit'"),
        (["--"], "Missing argument"),
        (["--", "generate", "digits", "8"], "has no --out"),
        (
            ["--", "generate", "digits", "8", "--step", "4", "--out", "a"],
            "cannot be read: No such option: --step",
        ),
        (
            ["--", "generate", "digits", "8", "--out", "a", "--", "uturn", "digits", "--out", "a/"],
            "'a' twice",
        ),
        (["--", "export", "runs/a", "--out", "a"], "workers is 8 for 'export'"),
        (["--then", "report", "--", *RUN], "the command 'report' cannot be read"),
        (["--then", "report 'a", "--", *RUN], "No closing quotation"),
        (["--then", "", "--", *RUN], "the command is ''"),
        (["--scheduler", "lsf", "--", *RUN], "scheduler is 'lsf'; accepted: slurm, pbs."),
        (["--workers", "0", "--", *RUN], "workers is 0; accepted"),
        (["--workers", "1001", "--", *RUN], "workers is 1001; accepted: up to 1000."),
        (["--hours", "0.01", "--", *RUN], "hours is 0.01; accepted: a number of at least 0.1."),
        (["--hours", "nan", "--", *RUN], "hours is nan"),
        (["--gpus", "-1", "--", *RUN], "gpus is -1"),
        (["--cpus", "0", "--", *RUN], "cpus is 0"),
        (["--rounds", "0", "--", *RUN], "rounds is 0"),
        (["--memory", "16 GB", "--", *RUN], "memory is '16 GB'; accepted: a whole number with K, M, G or T"),
        (["--account", "my lab", "--", *RUN], "account is 'my lab'"),
        (["--queue", "fast\n#SBATCH --wrap=x", "--", *RUN], "partition is 'fast"),
        (["--name", "a b", "--", *RUN], "name is 'a b'"),
        (["--name", "é", "--", *RUN], "name is 'é'"),
    ],
)
def test_mistakes_are_said_before_anything_waits_in_a_queue(command, arguments, said):
    status, out, complaint = command("submit", "--print", *arguments)
    assert (status, out) == (2, "")
    assert said in complaint
    if complaint.startswith("error: "):
        assert complaint.endswith(".\n")
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("out", "name"), [("runs/a b", "a-b"), ("runs/ü", "turningpoint"), ("-x", "x"), ("r" * 90, "r" * 63)]
)
def test_a_job_is_named_after_its_folder(command, out, name):
    _, printed, _ = command("submit", "--print", "--", "generate", "digits", 8, f"--out={out}")
    assert f"#SBATCH --job-name={name}\n" in printed


def test_the_options_of_the_job_end_where_the_command_begins(command):
    _, printed, _ = command("submit", "--print", "generate", "digits", 8, "--label", "1,2", "--out", "runs/a")
    assert "\nturningpoint generate digits 8 --label 1,2 --out runs/a &\n" in printed


def test_a_job_refuses_what_it_cannot_say(refuses):
    with refuses("hours is '4'"):
        Job("a", [RUN], hours="4")
    with refuses("scheduler is 'sge'"):
        scripts(Job("a", [RUN]), [], "sge")


def test_workers_that_would_all_write_a_report_are_warned_of(command):
    trace = ["trace", "digits", "--generate", 200, "--out", "runs/a b"]
    status, out, said = command("submit", "--print", "--", *trace)
    assert status == 0
    assert out.startswith("#!/bin/bash")
    assert "warning: each of 8 workers will write the report of runs/a b; add --no-report" in said
    for quiet in (["--workers", 1, "--", *trace], ["--", *trace, "--no-report"]):
        assert command("submit", "--print", *quiet)[2] == ""
