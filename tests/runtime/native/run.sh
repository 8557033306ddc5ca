#!/bin/sh
# Builds the runtime's C tests three times and runs them: plain, with ThreadSanitizer, and with AddressSanitizer and
# UndefinedBehaviorSanitizer.
# Usage: tests/runtime/native/run.sh [plain|thread|address]...   CC chooses the compiler.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
runtime=$(cd "$here/../../../sdcomp/runtime/native" && pwd)
compiler=${CC:-cc}
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT INT TERM

flags_of() {
  case $1 in
    plain) echo "-O2 -Wall -Wextra -Wpedantic -Wshadow -Werror" ;;
    thread) echo "-O1 -g -fsanitize=thread" ;;
    address) echo "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" ;;
    *) echo "run.sh: expected plain, thread or address, found $1" >&2; exit 2 ;;
  esac
}

for variant in ${*:-plain thread address}; do
  flags=$(flags_of "$variant")
  objects=
  for source in "$runtime"/*.c "$here/plan_fake.c"; do
    object=$build/$variant-$(basename "$source" .c).o
    # shellcheck disable=SC2086
    "$compiler" -std=c11 $flags -pthread -I"$runtime" -I"$here" -c "$source" -o "$object"
    objects="$objects $object"
  done
  for source in "$here"/test_*.c; do
    name=$(basename "$source" .c)
    echo "$variant: $name"
    # shellcheck disable=SC2086
    "$compiler" -std=c11 $flags -pthread -I"$runtime" -I"$here" "$source" $objects -o "$build/$name" -ldl
    (cd "$build" && TSAN_OPTIONS=halt_on_error=1 "./$name")
  done
done
echo "all tests of the runtime passed"
