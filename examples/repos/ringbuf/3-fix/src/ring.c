#include "ring.h"

void ring_init(struct ring *ring) {
  ring->head = 0;
  ring->count = 0;
}

bool ring_push(struct ring *ring, int value) {
  if (ring->count == RING_CAPACITY) {
    return false;
  }
  ring->values[(ring->head + ring->count) % RING_CAPACITY] = value;
  ring->count++;
  return true;
}

bool ring_pop(struct ring *ring, int *value) {
  if (ring->count == 0) {
    return false;
  }
  *value = ring->values[ring->head];
  ring->head = (ring->head + 1) % RING_CAPACITY;
  ring->count--;
  return true;
}

size_t ring_copy(const struct ring *ring, int *out) {
  size_t copied = 0;
  for (size_t i = 0; i < ring->count; i++) {
    out[copied++] = ring->values[(ring->head + i) % RING_CAPACITY];
  }
  return copied;
}
