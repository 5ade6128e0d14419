#include "stats.h"

static int value_at(const struct ring *ring, size_t index) {
  return ring->values[(ring->head + index) % RING_CAPACITY];
}

long ring_sum(const struct ring *ring) {
  long sum = 0;
  for (size_t i = 0; i < ring->count; i++) {
    sum += value_at(ring, i);
  }
  return sum;
}

bool ring_max(const struct ring *ring, int *max) {
  if (ring->count == 0) {
    return false;
  }
  *max = value_at(ring, 0);
  for (size_t i = 1; i < ring->count; i++) {
    if (value_at(ring, i) > *max) {
      *max = value_at(ring, i);
    }
  }
  return true;
}
