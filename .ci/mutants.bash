# What scripts share that break one rule of the shipped code after the other, in a copy of the working tree, and
# demand that a test fails. Sourced by them; each says how a test is built and run:
#
#   build WHAT    builds the tests of $work/repo; calls stop if they do not compile
#   run TEST      runs one test, its output to $work/run.log; its status is the test's
#
# With SHARE=K/N they take each Nth breakage, from the one on that K modulo N says; the others are made, and not tried.
#
# A breakage is an exact replacement in a file of src/. The text to be replaced must be there exactly once: if the
# code has changed, the script stops, so that it cannot go on testing nothing.

root=$PWD
only=${1:-}
began=$SECONDS
made=0 ran=0 survived=0
share=${SHARE:-0/1}

stop() {
    echo "$*" >&2
    exit 2
}

# prepare NAME: the copy, always in the same folder, so that cargo rebuilds only what was changed.
prepare() {
    work=$root/target/$1
    mkdir -p "$work"
    exec 9>"$work/lock"
    flock -n 9 || stop "this script is running here already"
    rm -rf "$work/clean" "$work/repo"
    mkdir -p "$work/clean"
    git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do [ -f "$file" ] && printf '%s\0' "$file"; done |
        xargs -0 cp --parents -t "$work/clean"
    cp -r "$work/clean" "$work/repo"
    export CARGO_TARGET_DIR=$work/target
    unset RUST_BACKTRACE
}

# mutant TEST WHAT FILE OLD NEW [FILE OLD NEW]...
mutant() {
    local test=$1 what=$2 status=0 result
    shift 2
    [[ "$test $what" == *"$only"* ]] || return 0
    python3 - "$work" "$@" <<'PY' || stop "cannot break: $what"
import sys
work, edits = sys.argv[1], sys.argv[2:]
texts = {}
for file, old, new in zip(edits[::3], edits[1::3], edits[2::3], strict=True):
    text = texts.get(file) or open(f"{work}/clean/src/{file}").read()
    if text.count(old) != 1:
        sys.exit(f"src/{file} has this {text.count(old)} times instead of once:\n{old}")
    texts[file] = text.replace(old, new)
for file, text in texts.items():
    open(f"{work}/repo/src/{file}", "w").write(text)
PY
    made=$((made + 1))
    if (((made + ${share%/*}) % ${share#*/} != 0)); then
        put_back "$@"
        return
    fi
    build "$what"
    # In a shell of its own, which keeps the word that it aborted to itself.
    (run "$test"; exit $?) >"$work/run.log" 2>&1 || status=$?
    grep -q '^running 1 test$' "$work/run.log" || stop "there is no test $test"
    result=$(verdict "$status")
    printf '%-9s %-45s %s\n' "$result" "$test" "$what"
    ran=$((ran + 1))
    [ "$result" = caught ] || survived=$((survived + 1))
    put_back "$@"
}

# put_back [FILE OLD NEW]...
put_back() {
    local i
    for ((i = 1; i <= $#; i += 3)); do
        cp "$work/clean/src/${!i}" "$work/repo/src/${!i}"
    done
}

# verdict STATUS: "caught", or why not.
verdict() {
    if [ "$1" = 0 ]; then
        echo SURVIVED
    elif [ "$1" = 124 ]; then
        echo 'SURVIVED (timed out)'
    elif grep -q 'exceeded maximum number of branches' "$work/run.log"; then
        echo 'SURVIVED (loom gave up)'
    elif grep -q 'panicked at' "$work/run.log"; then
        echo caught
    else
        echo "SURVIVED (status $1)"
    fi
}

# The end of the script: fails if a breakage was not caught.
conclude() {
    echo "$ran of $made mutants tried, $survived survived, $((SECONDS - began)) s"
    [ "$ran" -gt 0 ] && [ "$survived" = 0 ]
}
