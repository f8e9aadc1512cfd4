#!/usr/bin/env bash
# Fuzzes: what a hostile file can do to who opens it.
#
#   tests/fuzz/run.sh SECONDS [TARGET ...]     each target, or all, for so long; fails if one finds something
#
# With a nightly compiler under AddressSanitizer, else without. Inputs that were found worth keeping stay in
# tests/fuzz/corpus, those that failed in tests/fuzz/artifacts; SHOW=1 says what such an input of `words` changes.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
[ $# -gt 0 ] || set -- words changed bytes

command -v cargo-fuzz > /dev/null || cargo install --locked cargo-fuzz
build=(cargo fuzz build --fuzz-dir . --sanitizer none)
if cargo +nightly --version > /dev/null 2>&1; then
    build=(cargo +nightly fuzz build --fuzz-dir . --sanitizer address)
fi
# Comparisons are not traced: that takes half the time, and what it would find are checksums.
"${build[@]}" --no-trace-compares

export ASAN_OPTIONS=malloc_context_size=0:quarantine_size_mb=1:detect_stack_use_after_return=0
target=$(rustc -vV | sed -n 's/^host: //p')
for name; do
    printf '\n-- %s\n' "$name"
    mkdir -p "corpus/$name" "artifacts/$name"
    log=artifacts/$name/log
    if ! "target/$target/release/$name" "corpus/$name" -artifact_prefix="artifacts/$name/" -max_total_time="$seconds" \
        -timeout=2 -max_len=400 -print_final_stats=1 > "$log" 2>&1; then
        grep -v -E '^#[0-9]+' "$log" | tail -60
        exit 1
    fi
    grep -E 'number_of_executed_units|average_exec' "$log"
done
