"""The program that the tests of the debugger share."""

__all__ = ["RINGS"]

RINGS = """.sas 1
.machine "sas28"
.param count r1
.desc
.view x buf i8 8x4x2
.view y buf i8 8x4x3 addr=64 ring=2
.view z buf i8 8x4x3 addr=128
.view a acc i32 8x4x3 ring=2
.view in host i8 8x4x2
.view out host i8 8x4x3 addr=64
.geom g kernel=1x1
.mat w dense compute 2x3 tensor="w" frozen
.tile sub=3 row=2 size=2x3
.table t requant zero=0 lo=-128 hi=127 bias=[0, 0, 0] mult=[0x40000000, 0x40000000, 0x40000000] shift=[31, 31, 31]
.data
.tensor "w" i8 2x3 [1, 2, 3, -4, -5, -6]
.code
.entry main
    phase forward
    li r2, 0
.loc "load" "hand"
    hld x, in, r0, all
.loc ""
    loop r1
      li r3, 0
      loopi 4
.loc "conv" "hand"
        vmm a, x, w, g, r3:2
        req y, a, t, r3:2
.loc "store" "hand"
        clip z, y, -100, 100, r3:2
.loc ""
        addi r3, r3, 2
      endl
      addi r2, r2, 1
    endl
    phase update
    hst out, z, r0, all
    halt
"""
"""Two nested loops, a ring of two rows, a host view."""
