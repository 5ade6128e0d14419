#include "ring.h"

void ring_init(struct ring *ring) {
  ring->head = 0;
  ring->count = 0;
}

bool ring_push(struct ring *ring, int value) {
  size_t tail = (ring->head + ring->count) % RING_CAPACITY;
  ring->values[tail] = value;
  if (ring->count < RING_CAPACITY) {
    ring->count++;
  } else {
    ring->head = (ring->head + 1) % RING_CAPACITY;
  }
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
  for (size_t i = 0; i + 1 < ring->count; i++) {
    out[copied++] = ring->values[(ring->head + i) % RING_CAPACITY];
  }
  return copied;
}
