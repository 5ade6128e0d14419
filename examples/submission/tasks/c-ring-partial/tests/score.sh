#!/bin/bash
# Half of the reward for each of the two programs; exit 0 only if both are right.
set -eu
make -s check
reward=0
for name in copy full; do
  cc -std=c99 -Isrc -o "build/hidden-$name" "hidden/$name.c" src/*.c
  if "build/hidden-$name"; then
    echo "ok $name"
    reward=$((reward + 5))
  else
    echo "not ok $name"
  fi
done
case $reward in
  10) echo 1.0 >"$REWARD_DIR/reward.txt" ;;
  *)
    echo "0.$reward" >"$REWARD_DIR/reward.txt"
    exit 1
    ;;
esac
