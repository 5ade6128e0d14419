#include "ring.h"

int main(void) {
  struct ring ring;
  int out[RING_CAPACITY] = {0};
  ring_init(&ring);
  ring_push(&ring, 5);
  ring_push(&ring, 6);
  return ring_copy(&ring, out) == 2 && out[0] == 5 && out[1] == 6 ? 0 : 1;
}
