; Periphery, forward: bias, requantisation, clip, additions, pools, resampling, arg max.
.desc
.view acc acc i32 2x2x2
.view y buf i8 2x2x2
.view yu buf u8 2x2x2 addr=16
.view wide buf i32 2x2x2 addr=32
.view a buf u8 2x2x2 addr=64
.view b buf u8 2x2x2 addr=80
.view s buf i8 2x2x2 addr=96
.view t buf i8 2x2x2 addr=112
.view p buf u8 4x4x2 addr=128 pad=10
.view m buf u8 2x2x2 addr=160
.view back acc i32 4x4x2 addr=200
.view pe buf i8 2x2x2 addr=176
.view x buf i8 2x3x1 addr=192
.view up acc i32 4x6x1 addr=300
.view ue buf i8 4x6x1 addr=200
.view ub acc i32 2x3x1 addr=400
.view odd acc i32 3x5x1 addr=500
.view oe buf i8 3x5x1 addr=240
.view logits buf i8 1x1x5 addr=260
.view ulogits buf u8 1x1x5 addr=260
.view scores buf i32 1x1x4 addr=280
.geom k3 kernel=3x3 stride=2x2 pad=1x1
.geom one
.geom lin mode=linear2
.geom near mode=nearest
.view planes acc i32 1x1x2 addr=520
.view gate buf u8 1x1x2 addr=272 pad=128
.table half lut values=[-64, -64, -63, -63, -62, -62, -61, -61, -60, -60, -59, -59, -58, -58, -57, -57, -56, -56, -55, -55, -54, -54, -53, -53, -52, -52, -51, -51, -50, -50, -49, -49, -48, -48, -47, -47, -46, -46, -45, -45, -44, -44, -43, -43, -42, -42, -41, -41, -40, -40, -39, -39, -38, -38, -37, -37, -36, -36, -35, -35, -34, -34, -33, -33, -32, -32, -31, -31, -30, -30, -29, -29, -28, -28, -27, -27, -26, -26, -25, -25, -24, -24, -23, -23, -22, -22, -21, -21, -20, -20, -19, -19, -18, -18, -17, -17, -16, -16, -15, -15, -14, -14, -13, -13, -12, -12, -11, -11, -10, -10, -9, -9, -8, -8, -7, -7, -6, -6, -5, -5, -4, -4, -3, -3, -2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16, 16, 17, 17, 18, 18, 19, 19, 20, 20, 21, 21, 22, 22, 23, 23, 24, 24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29, 30, 30, 31, 31, 32, 32, 33, 33, 34, 34, 35, 35, 36, 36, 37, 37, 38, 38, 39, 39, 40, 40, 41, 41, 42, 42, 43, 43, 44, 44, 45, 45, 46, 46, 47, 47, 48, 48, 49, 49, 50, 50, 51, 51, 52, 52, 53, 53, 54, 54, 55, 55, 56, 56, 57, 57, 58, 58, 59, 59, 60, 60, 61, 61, 62, 62, 63, 63]
.table t requant zero=3 lo=-128 hi=127 bias=[0, -20] mult=[1073741824, 1431655765] shift=[31, 33]
.table relu requant zero=0 lo=0 hi=255 bias=[0, -20] mult=[1073741824, 1431655765] shift=[31, 33]
.table neg requant zero=-4 lo=-128 hi=127 bias=[5, 5] mult=[-1073741824, 1073741824] shift=[31, 32]
.table sum addq ma=1073741824 mb=715827882 shift=31 za=128 zb=100 zy=120 lo=0 hi=255

.code
.entry bias
    bias acc, t, r1:1
    drain wide, acc, all
    halt
.entry requantise
    req y, acc, t, all
    drain wide, acc, all        ; the sums are cleared
    halt
.entry relu
    req yu, acc, relu, all
    halt
.entry negative
    req y, acc, neg, all
    halt
.entry clip
    clip t, s, -5, 6, all
    clip yu, a, 10, 200, r1:1
    halt
.entry residual
    addq yu, a, b, sum, all
    halt
.entry lookup
    lut t, s, half, all
    halt
.entry product
    prod acc, a, gate, all
    halt
.entry product_back
    prod planes, s, b, r1:1
    halt
.entry aligned
    adda wide, s, t, r1, r2, all
    halt
.entry average
    pavg acc, p, k3, all
    halt
.entry load
    pavg acc, s, one, r1:1
    halt
.entry average_back
    pavgt back, pe, k3, all
    halt
.entry maximum
    pmax m, p, k3, all
    halt
.entry maximum_back
    pmaxt back, pe, p, k3, all
    halt
.entry linear
    ups up, x, lin, all
    halt
.entry linear_back
    upst ub, ue, lin, all
    halt
.entry nearest
    ups odd, x, near, all
    halt
.entry nearest_back
    upst ub, oe, near, all
    halt
.entry best
    argmax r1, logits
    argmax r2, ulogits
    halt
.entry best_words
    argmax r3, scores
    halt

.tests
.test "bias, and draining clears"
.init acc [1000, -1000, 7, 3, -3, 5, 2147483000, -2147483000]
.init_reg r1 1
.run bias
.expect wide [1000, -1000, 7, 3, -3, -15, 2147483000, -2147483020]
.expect acc 0

.test "requantise: round to even, zero point, clamp; the sums are cleared"
.init acc [1000, -1000, 7, 3, -3, 5, 2147483000, -2147483000]
.run requantise
.expect y [127, -128, 7, 0, 1, 1, 127, -128]
.expect wide 0
.expect_event requantise_ops 8

.test "ReLU is a bound of the requantisation"
.init acc [1000, -1000, 7, 3, -3, 5, 2147483000, -2147483000]
.run relu
.expect yu [255, 0, 4, 0, 0, 0, 255, 0]
.expect_cycles 3

.test "a negative multiplier"
.init acc [1000, -1000, 7, 3, -3, 5, 2147483000, -2147483000]
.run negative
.expect y [-128, -128, -10, -2, -5, -2, -128, -128]

.test "halves go to the even neighbour"
.init acc [1, 0, 3, 0, 5, 0, -1, 0]          ; x 1/2: 0.5, 1.5, 2.5, -0.5
.run negative
.expect y [-7, -3, -8, -3, -9, -3, -6, -3]

.test "bias overflow"
.init acc [0, 0, 0, 0, 0, -2147483640, 0, 0]
.init_reg r1 1
.run bias
.expect_trap "accumulator overflow"

.test "clip"
.init s [-128, -6, -5, -4, 5, 6, 7, 127]
.init a [0, 0, 0, 0, 9, 10, 200, 255]
.init yu [1*8]
.init_reg r1 1
.run clip
.expect t [-5, -5, -5, -4, 5, 6, 6, 6]
.expect yu [1, 1, 1, 1, 10, 10, 200, 200]

.test "residual addition of two scales"
.init a [241, 160, 175, 229, 148, 198, 213, 57]
.init b [14, 76, 72, 223, 233, 1, 127, 210]
.run residual
.expect yu [148, 128, 134, 211, 174, 122, 171, 121]

.test "aligned addition, equal exponents"
.init s [-94, 76, -97, -8, 81, -50, -40, -57]
.init t [56, -63, 125, -14, -6, 1, 21, 14]
.init_reg r1 -3
.init_reg r2 -3
.run aligned
.expect wide [-9728, 3328, 7168, -5632, 19200, -12544, -4864, -11008]

.test "aligned addition, b is smaller"
.init s [-94, 76, -97, -8, 81, -50, -40, -57]
.init t [56, -63, 125, -14, -6, 1, 21, 14]
.init_reg r1 2
.init_reg r2 -8
.run aligned
.expect wide [-24050, 19440, -24801, -2052, 20734, -12800, -10235, -14588]

.test "aligned addition, a is lost"
.init s [-94, 76, -97, -8, 81, -50, -40, -57]
.init t [56, -63, 125, -14, -6, 1, 21, 14]
.init_reg r1 -40
.init_reg r2 0
.run aligned
.expect wide [14336, -16128, 32000, -3584, -1536, 256, 5376, 3584]

.test "window sums with a zero point outside"
.init p [130, 254, 206, 202, 179, 159, 87, 253, 119, 55, 216, 41, 219, 156, 29, 11, 113, 9, 36, 131, 248, 119, 206, 234, 210, 161, 112, 131, 68, 127, 97, 63]
.run average
.expect acc [721, 602, 966, 852, 836, 558, 1231, 1013]

.test "a 1 x 1 window loads accumulators"
.init s [1, -2, 3, -4, 5, -6, 7, -8]
.init acc [100*8]
.init_reg r1 1
.run load
.expect acc [100, 100, 100, 100, 105, 94, 107, 92]

.test "average pool, backward"
.init pe [126, -124, -103, -78, 120, 49, 97, -76]
.run average_back
.expect back [126, -124, 23, -202, -103, -78, -103, -78, 246, -75, 240, -229, -6, -154, -6, -154, 120, 49, 217, -27, 97, -76, 97, -76, 120, 49, 217, -27, 97, -76, 97, -76]

.test "maximum: outside never wins"
.init p [130, 254, 206, 202, 179, 159, 87, 253, 119, 55, 216, 41, 219, 156, 29, 11, 113, 9, 36, 131, 248, 119, 206, 234, 210, 161, 112, 131, 68, 127, 97, 63]
.run maximum
.expect m [216, 254, 219, 253, 216, 161, 248, 234]

.test "maximum, backward: the first maximum receives the error"
.init p [130, 254, 206, 202, 179, 159, 87, 253, 119, 55, 216, 41, 219, 156, 29, 11, 113, 9, 36, 131, 248, 119, 206, 234, 210, 161, 112, 131, 68, 127, 97, 63]
.init pe [126, -124, -103, -78, 120, 49, 97, -76]
.run maximum_back
.expect back [0, -124, 0, 0, 0, 0, 0, -78, 0, 0, 246, 0, -103, 0, 0, 0, 0, 0, 0, 0, 97, 0, 0, -76, 0, 49, 0, 0, 0, 0, 0, 0]

.test "equal maxima: row by row, the first"
.init p [7*32]
.init pe [1, 2, 3, 4, 5, 6, 7, 8]
.run maximum_back
.expect back [1, 2, 3, 4, 0*4, 5, 6, 7, 8, 0*20]

.test "linear resampling, factor 2"
.init x [56, -34, -3, -128, 30, 84]
.run linear
.expect up [896, 536, -184, -420, -172, -48, 160, 48, -176, -141, 153, 300, -1312, -928, -160, 417, 803, 996, -2048, -1416, -152, 696, 1128, 1344]

.test "linear resampling, backward"
.init ue [42, -88, 9, -59, 119, 97, -80, 2, 112, 89, 53, 36, -117, 62, -7, -104, -65, 10, 58, 2, 29, 95, 47, -35]
.run linear_back
.expect ub [-1243, 1162, 3661, -1, 1334, -1]

.test "nearest resampling to an odd size"
.init x [56, -34, -3, -128, 30, 84]
.run nearest
.expect odd [56, 56, -34, -34, -3, 56, 56, -34, -34, -3, -128, -128, 30, 30, 84]

.test "nearest resampling, backward"
.init oe [37, 25, -100, -112, 41, -29, 25, -45, -70, -89, -30, 81, -25, -31, 19]
.run nearest_back
.expect ub [58, -327, -48, 51, -56, 19]

.test "arg max: signed and unsigned, lowest index among equals"
.init logits [-1, 5, -128, 5, 3]             ; unsigned: 255, 5, 128, 5, 3
.run best
.expect_reg r1 1
.expect_reg r2 0

.test "any function of 8 bits: half, rounded down"
.init s [1, -2, 3, -4, 5, -6, 127, -128]
.run lookup
.expect t [0, -1, 1, -2, 2, -3, 63, -64]
.expect_event lut_ops 8

.test "product with one factor a channel, less its zero point"
.init a [1, 2, 3, 4, 5, 6, 255, 0]
.init gate [0, 255]
.run product
.expect acc [-128, 254, -384, 508, -640, 762, -32640, 0]
.expect_event product_ops 8

.test "product, backward: the sum over a plane"
.init s [99*4, 5, -6, 127, -128]
.init b [77*4, 1, 2, 255, 10]
.init_reg r1 1
.run product_back
.expect planes [32390, -1292]

.test "arg max of 32-bit words: the first among equals, also below all 8-bit values"
.init scores [-2000000000, -70000, -70001, -70000]
.run best_words
.expect_reg r3 1
