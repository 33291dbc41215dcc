; Overlap of units: a region from ovl to sync, mode or halt takes as long as its busiest unit. Values do not change.
.desc
.view h host i8 1x1x800
.view x buf i8 1x1x800
.view y buf i8 1x1x800 addr=1024
.view z buf i8 1x1x800 addr=2048
.code
.entry serial
    hld x, h, r0, all           ; 1 + 800 bytes / 8
    clip y, z, -2, 2, all       ; 1 + 800 elements / 256
    sync
    halt
.entry region
    ovl
    hld x, h, r0, all
    clip y, z, -2, 2, all
    sync
    halt
.entry until_mode
    ovl
    hld x, h, r0, all
    clip y, z, -2, 2, all
    phase error
    halt
.entry until_halt
    ovl
    hld x, h, r0, all
    clip y, z, -2, 2, all
    halt
.entry twice
    loopi 3
      ovl
      hld x, h, r0, all
      clip y, z, -2, 2, all
      sync
    endl
    halt

.tests
.test "one after the other"
.init h 1
.init z 5
.run serial
.expect_cycles 108                  ; 101 + 5 + sync + halt
.expect x 1
.expect y 2

.test "the host interface is the busiest unit"
.init h 1
.init z 5
.run region
.expect_cycles 102                  ; ovl + 100 + halt
.expect x 1
.expect y 2
.expect_event instructions 5

.test "a change of phase ends the region"
.run until_mode
.expect_cycles 102

.test "the end of the entry ends the region"
.run until_halt
.expect_cycles 101                  ; ovl + 100; halt is inside

.test "regions in a loop"
.run twice
.expect_cycles 308                  ; loopi + 3 (ovl + 100 + endl) + halt
