#include "stats.h"

#include <stdio.h>

int main(void) {
  struct ring ring;
  ring_init(&ring);
  for (int value = 1; value <= RING_CAPACITY; value++) {
    ring_push(&ring, value);
    long expected = (long)value * (value + 1) / 2;
    if (ring_sum(&ring) != expected) {
      fprintf(stderr, "sum of 1 to %d: %ld, expected %ld\n", value, ring_sum(&ring), expected);
      return 1;
    }
  }
  return 0;
}
