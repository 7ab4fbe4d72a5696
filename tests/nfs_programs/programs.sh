#!/bin/busybox sh
# shellcheck shell=dash
# What the emulated client runs on its root: programs that check themselves.
#
#   programs.sh prepare            busybox's programs, and a folder to work in
#   programs.sh git                commits, a merge, a repack, clones; git's own checks
#   programs.sh compiler           a program of 20 sources, compiled, linked and run where it lies
#   programs.sh sqlite MODE        bulk changes in one journal mode; sqlite's own check
#   programs.sh commit MODE COUNT  so many transactions, each told on the console when sqlite has committed it
set -eu
export HOME=/root PATH=/bin:/usr/bin:/sbin GIT_CONFIG_NOSYSTEM=1

fail() { echo "judge: FAIL $*"; exit 1; }

case $1 in
prepare)
    /bin/busybox --install -s /bin
    mkdir -p /work /root
    ;;
git)
    mkdir /work/git
    cd /work/git
    git init -q -b trunk one
    cd one
    git config user.email judge@localhost
    git config user.name judge
    for round in 1 2 3 4 5 6; do
        for file in 1 2 3 4 5 6 7 8 9 10; do
            mkdir -p "part$((file % 4))"
            echo "round $round of file $file" >>"part$((file % 4))/file$file"
        done
        [ "$round" != 3 ] || git mv part1/file1 part2/moved
        [ "$round" != 4 ] || git rm -q part2/moved
        git add -A
        git commit -q -m "round $round"
    done
    git checkout -q -b side HEAD~2
    echo aside >aside
    chmod 755 aside
    ln -s part0 link
    git add -A
    git commit -q -m side
    git checkout -q trunk
    git merge -q --no-edit side
    git worktree add -q ../tree side
    git gc -q --prune=now
    git fsck --full --strict || fail "git fsck"
    git clone -q . ../hard-links
    git clone -q --no-hardlinks . ../copies
    for clone in hard-links copies; do
        git -C "../$clone" fsck --full --strict || fail "git fsck of a clone"
        [ "$(git -C "../$clone" rev-parse HEAD)" = "$(git rev-parse HEAD)" ] || fail "a clone's head"
        [ -z "$(git -C "../$clone" status --porcelain)" ] || fail "git status of a clone"
    done
    [ -z "$(git status --porcelain)" ] || fail "git status"
    [ -x aside ] || fail "modes in git"
    [ -L link ] || fail "links in git"
    ;;
compiler)
    mkdir /work/compiler
    cd /work/compiler
    n=1
    while [ $n -le 20 ]; do
        printf 'int part%s(int x);\n' $n >>parts.h
        printf '#include "parts.h"\n#include <string.h>\nint part%s(int x) { return x + (int)strlen("%0*d"); }\n' $n $n 0 >part$n.c
        n=$((n + 1))
    done
    {
        printf '#include <stdio.h>\n#include "parts.h"\nint main(void) { int sum = 0;\n'
        n=1
        while [ $n -le 20 ]; do
            printf 'sum = part%s(sum);\n' $n
            n=$((n + 1))
        done
        printf 'printf("%%d\\n", sum); return 0; }\n'
    } >main.c
    for source in *.c; do tcc -Wall -Werror -c "$source"; done
    tcc -o program ./*.o
    # 1 + 2 + … + 20
    [ "$(./program)" = 210 ] || fail "the compiled program said $(./program)"
    # Replaced while it is not run, as make does, and run again.
    tcc -o program.new ./*.o
    mv program.new program
    [ "$(./program)" = 210 ] || fail "the replaced program"
    ;;
sqlite)
    mkdir -p /work/sqlite
    said=$(
        sqlite3 -batch "/work/sqlite/bulk-$2.db" <<END
PRAGMA journal_mode=$2;
PRAGMA synchronous=FULL;
CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT, noise BLOB);
CREATE INDEX texts ON t(text);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
    INSERT INTO t SELECT i, 'text ' || (i * 7919 % 1501), randomblob(200 + i % 700) FROM n;
BEGIN; DELETE FROM t WHERE id % 3 = 0; UPDATE t SET text = text || '!' WHERE id % 5 = 0; COMMIT;
BEGIN; DELETE FROM t; ROLLBACK;
VACUUM;
PRAGMA integrity_check;
SELECT count(*), sum(id), sum(text LIKE '%!') FROM t;
END
    )
    [ "$said" = "$2
ok
1000|750000|200" ] || fail "sqlite, $2: $said"
    [ "$(sqlite3 "/work/sqlite/bulk-$2.db" 'PRAGMA integrity_check; SELECT count(*) FROM t')" = "ok
1000" ] || fail "sqlite, $2, opened again"
    ;;
commit)
    mkdir -p /work/sqlite
    {
        echo "PRAGMA journal_mode=$2; PRAGMA synchronous=FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT);"
        echo "CREATE TABLE total(rows INTEGER); INSERT INTO total VALUES(0);"
        n=1
        while [ $n -le "$3" ]; do
            echo "BEGIN; INSERT INTO t VALUES($n, hex(zeroblob(500 + $n % 7 * 300)) || ' row $n'); UPDATE total SET rows = rows + 1; COMMIT;"
            echo ".print judge: committed $2 $n"
            n=$((n + 1))
        done
    } | sqlite3 -batch -bail "/work/sqlite/$2.db"
    ;;
*)
    fail "no part $1"
    ;;
esac
