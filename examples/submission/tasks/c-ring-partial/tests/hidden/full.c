#include "ring.h"

int main(void) {
  struct ring ring;
  int oldest = 0;
  ring_init(&ring);
  for (int value = 0; value < RING_CAPACITY; value++) {
    if (!ring_push(&ring, value)) return 1;
  }
  return !ring_push(&ring, 99) && ring_pop(&ring, &oldest) && oldest == 0 ? 0 : 1;
}
