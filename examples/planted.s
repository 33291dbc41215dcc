.sas 1
; A convolution of an image of 8 pixels, and statistics of its result. One declaration is wrong: a buffer overlaps another.
.machine "sas28"
.desc
.view image host i8 8x1x2
.view result host i8 8x1x3 addr=64
.view x buf i8 8x1x2
.view y buf i8 8x1x3 addr=64
.view highest buf i8 1x1x8 addr=85
.view sums acc i32 8x1x3
.geom one kernel=1x1
.mat w dense compute 2x3 tensor="w" frozen
.tile sub=3 row=2 size=2x3
.table half requant zero=0 lo=-128 hi=127 bias=[0, 0, 0] mult=[0x40000000, 0x40000000, 0x40000000] shift=[31, 31, 31]
.data
.tensor "w" i8 2x3 [1, 2, 3, -4, -5, -6]
.code
.entry main
.loc "load" "hand"
    hld x, image, r0, all
.loc "conv" "hand"
    li r3, 0
    loopi 4
      vmm sums, x, w, one, r3:2
      req y, sums, half, r3:2
      addi r3, r3, 2
    endl
.loc "statistics" "hand"
    fill highest, -128, all
.loc "store" "hand"
    hst result, y, r0, all
    halt
