"""The gate, session by session: ``nox -l`` lists them, ``nox -s lint typing`` runs two of them."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "typing"]
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [
    line.rpartition(" ")[2]
    for line in PROJECT["project"]["classifiers"]
    if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
]


def install_groups(session: nox.Session, *groups: str, constraints: str | None = None) -> None:
    """Install the package with the demo's dependencies, and the named dependency groups."""
    pins = ["-c", constraints] if constraints else []
    wanted = [
        requirement for group in groups for requirement in nox.project.dependency_groups(PROJECT, group)
    ]
    session.install("-e", ".[demo]", *wanted, *pins)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the whole suite under branch coverage: 95 % of the package, all of the core."""
    install_groups(session, "tests")
    data = Path(session.create_tmp()) / ".coverage"
    env = {"COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"), "COVERAGE_FILE": str(data)}
    session.run("coverage", "erase", env=env)
    session.run("python", "-m", "pytest", "-n", "2", *session.posargs, env=env)
    if session.posargs:
        session.log("a part of the suite was run: coverage is not judged")
        return
    session.run("coverage", "combine", "-q", env=env)
    session.run("coverage", "report", env=env)
    session.run("coverage", "report", "--include=async_ckpt/core/*", "--fail-under=100", env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Mypy strict over everything, pyright over the package."""
    install_groups(session, "typing")
    session.run("mypy")
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session(python=PYTHONS[0])
def minimums(session: nox.Session) -> None:
    """Run the suite with the lowest version that each dependency of ours claims to work with."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    pins = Path(session.create_tmp()) / "minimums.txt"
    bounds = (
        re.match(r"([\w.-]+)>=([\w.]+)$", line)
        for line in (*project["dependencies"], *extras["cli"], *extras["demo"])
    )
    pins.write_text("".join(f"{m[1]}=={m[2]}\n" for m in bounds if m), encoding="utf-8")
    install_groups(session, "tests", constraints=str(pins))
    session.run("python", "-m", "pytest", "-q", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[0])
def wheel(session: nox.Session) -> None:
    """Build the wheel, and run the suite against it from a directory without the source tree."""
    session.install("build", *nox.project.dependency_groups(PROJECT, "tests"))
    away = Path(session.create_tmp()).resolve() / "away"
    shutil.rmtree(away, ignore_errors=True)
    away.mkdir()
    session.run("python", "-m", "build", "--wheel", "--outdir", str(away / "dist"))
    built = next((away / "dist").glob("*.whl"))
    session.install("--force-reinstall", f"{built}[demo]")
    for name in ("tests", "examples", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, away / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, away / name)
    with session.chdir(away):
        session.run("python", "-m", "pytest", "-q", "-n", "2", *session.posargs)


@nox.session(python=PYTHONS[0])
def examples(session: nox.Session) -> None:
    """Run the examples as a reader would."""
    install_groups(session, "tests")
    session.run("python", "-m", "pytest", "-q", "tests/examples", *session.posargs)


@nox.session(python=PYTHONS[0])
def reliability(session: nox.Session) -> None:
    """Run the tiers of tests/reliability and write docs/reliability.md; arguments are handed on."""
    install_groups(session, "tests", "reliability")
    session.run("python", "-m", "tests.reliability", *session.posargs)


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """Build the site into site/, with warnings as errors."""
    install_groups(session, "docs")
    session.run("python", "docs/generate_states.py")
    session.run("mkdocs", "build", "--strict", *session.posargs)


# pip, so that its find-links can bring a CPU torch
@nox.session(python=PYTHONS[0], venv_backend="virtualenv")
def bench(session: nox.Session) -> None:
    """Measure against the peers in one run, and write docs/performance.md; arguments are handed on."""
    install_groups(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python=PYTHONS[0], venv_backend="virtualenv")
def comparison(session: nox.Session) -> None:
    """Cut the power under the peers and flip bits of their checkpoints; docs/reliability.md shows both."""
    install_groups(session, "bench")
    session.run("python", "-m", "benchmarks.bit_flip")
    session.run("python", "-m", "benchmarks.power_cut", *session.posargs)
    session.run("python", "-m", "tests.reliability", "--render")
