; A machine whose units do not overlap: ovl changes nothing.
.set controller.overlap=false
.view h host i8 1x1x800
.view x buf i8 1x1x800
.view y buf i8 1x1x800 addr=1024
.view z buf i8 1x1x800 addr=2048
    ovl
    hld x, h, r0, all
    clip y, z, -2, 2, all
    sync
    halt
.init z -5
.run main
.expect_cycles 109
.expect y -2
