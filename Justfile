# tq: `just run` starts a server, `just test` runs the tests. POSIX; needs uv and Python 3.11 or newer.

set positional-arguments

export UV_PYTHON_DOWNLOADS := "never"

bin := ".venv/bin"
# What .venv is made of, and where: when this changes, it is made anew.
stamp := ".venv/.made-of"
made_of := "(pwd; cksum requirements.lock pyproject.toml)"
# Bytecode is kept whatever the environment says: each of three processes, and each server that a test starts,
# would compile all of it again.
pytest := "env PYTHONDONTWRITEBYTECODE= " + bin + "/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder"
# `exec` below: just passes SIGTERM on to its child, which must be the server, not a shell around it.

# List the recipes
_list:
    @{{just_executable()}} --list --unsorted

# Make .venv from requirements.lock; costs nothing when it is up to date
setup:
    @{{made_of}} | cmp -s - {{stamp}} && test -x {{bin}}/python || {{just_executable()}} _install

# Make .venv anew, or bring it up to date; compiled, or a start that may not write bytecode takes twice as long
_install:
    test -x {{bin}}/python || uv venv --quiet --clear --python '>=3.11' .venv
    uv pip sync --quiet --compile-bytecode --python {{bin}}/python --require-hashes requirements.lock
    uv pip install --quiet --python {{bin}}/python --no-deps --no-build-isolation --editable .
    @{{made_of}} > {{stamp}}

# Start the demo server on http://127.0.0.1:8080: any type is accepted, some tasks fail
[no-exit-message]
run *ARGS: setup
    @exec {{bin}}/tq demo "$@"

# Start a server for your own handlers, as in `just serve examples.hello:app`
[no-exit-message]
serve *ARGS: setup
    @exec {{bin}}/tq serve "$@"

# Run something of every test, three files at a time: a minute and a half on two cores. ARGS go to pytest
[no-exit-message]
test *ARGS: setup
    @# The plugin of schemathesis takes a second of each process to load, and only slow tests need it.
    @exec {{pytest}} -p no:schemathesis -m "not slow and not contract" "$@"

# Run the slow tests: each case, more seeds, browsers, processes that die. `just test-slow -m "not contract"`: all
[no-exit-message]
test-slow *ARGS: setup
    @exec {{pytest}} -m slow "$@"

# Hold a live server to /openapi.json: EXAMPLES requests an operation, and over 4 every part at its edges
[no-exit-message]
contract EXAMPLES="200" *ARGS: setup
    @examples="$1"; shift; exec env CONTRACT_EXAMPLES="$examples" {{bin}}/python -m pytest \
        -m contract tests/e2e/test_e2e_contract.py --timeout 1800 "$@"

# Break servers, ways and PostgreSQL under load: FAULTS of each kind, LEASES waited out, SERVERS at once
[no-exit-message]
test-faults FAULTS="50" LEASES="3" SERVERS="10": setup
    @exec env TQ_FAULTS="$1" TQ_FAULT_LEASES="$2" TQ_FAULT_SERVERS="$3" \
        {{bin}}/python -m pytest -s tests/e2e/test_e2e_faults.py

# Lint, check the format and the types
check: setup
    {{bin}}/ruff check .
    {{bin}}/ruff format --check .
    {{bin}}/mypy

# Live seeded worlds of crashes and lost stores, as in `just sim --seed 7 --count 100`
[no-exit-message]
sim *ARGS: setup
    @exec {{bin}}/python -m tq.testing.simulation "$@"

# Live seeded worlds of several servers that crash, freeze and are cut off, as in `just sim-fleet --count 100`
[no-exit-message]
sim-fleet *ARGS: setup
    @exec {{bin}}/python -m tq.testing.fleet_simulation "$@"

# Measure speed and memory, beside the machine's own limits; ARGS choose what, as in `just bench postgres`
[no-exit-message]
bench *ARGS: setup
    @exec {{bin}}/python -m benchmarks "$@"

# Format the code and mend what ruff can
fmt: setup
    {{bin}}/ruff check --fix .
    {{bin}}/ruff format .

# Pin the newest versions that pyproject.toml allows, with hashes, for every Python and platform
lock:
    uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
        --all-extras --group dev pyproject.toml --output-file requirements.lock

# Fetch the modules that the dashboard is made with, at the versions in tq/dashboard/vendor/update
vendor:
    tq/dashboard/vendor/update

# Write the parts of the reference in docs/ that come from the code; a test fails while they differ
docs: setup
    {{bin}}/python tests/docs/reference.py

# Take the pictures of the dashboard that the documentation shows; `just screenshots /tmp/x --all`: every page
screenshots FOLDER="docs/images" *ARGS="": setup
    PYTHONPATH=tests/e2e {{bin}}/python tests/e2e/screenshots.py {{FOLDER}} {{ARGS}}

# Look at this machine: versions, disk, limits, ports; what is wrong and what to do
[no-exit-message]
doctor *ARGS: setup
    @exec {{bin}}/tq doctor "$@"

# Remove what was made here: .venv and the caches of the tools
clean:
    rm -rf .venv .ci-tools .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
    find . -name __pycache__ -type d -prune -exec rm -rf {} +
