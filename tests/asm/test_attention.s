; Attention: a product of two activation matrices in scratch rows, softmax, layer norm.
.desc
.view a buf u8 1x2x3 pad=2
.view k buf i8 1x3x2 addr=16 pad=-1
.view kt buf i8 1x3x2 addr=16 row=6 pix=1 chan=3 pad=-1
.view acc acc i32 1x2x2
.view s buf i8 1x2x3 addr=32
.view p buf u8 1x2x3 addr=48
.view n buf i8 1x2x3 addr=64
.mat rows scratch compute 64x64
.tile sub=0 size=64x64
.table exp softmax mult=1073741824 shift=46 zero=0 lo=0 hi=255 exp=[16777216, 8388608, 4194304, 0*253]
.table norm norm eps=0 up=0 zero=1 lo=-128 hi=127 bias=[0, 256, 0] mult=[1073741824, 1073741824, -1073741824] shift=[32, 32, 31]


.code
.entry product
    vmma acc, a, k, rows, all
    halt
.entry transposed
    vmma acc, a, kt, rows, all
    halt
.entry softmax
    smax p, s, exp, all
    halt
.entry norm
    lnorm n, s, norm, all
    halt

.tests
.test "product of two activations, each less its zero point"
.init a [3, 2, 4, 0, 255, 2]
.init k [1, 2, 3, -4, -128, 127]
.run product
.expect acc [-252, 259, 1008, -765]
.expect_event rows_written_compute 3
.expect_event bits_written_compute 72
.expect_event add_ops 4

.test "the second matrix read in transposed order"
.init a [3, 2, 4, 0, 255, 2]
.init kt [1, 2, 3, -4, -128, 127]
.run transposed
.expect acc [-252, 259, 1008, -765]

.test "softmax of halves"
.init s [5, 4, 5, -128, -126, -127]
.run softmax
.expect p [102, 51, 102, 37, 146, 73]
.expect_event reciprocal_ops 2

.test "layer norm: equal elements give the offset"
.init s [1, 2, 3, 7, 7, 7]
.run norm
.expect n [-4, 2, -9, 1, 2, 1]
.expect_event lut_ops 0
