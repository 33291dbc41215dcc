; Movement: host <-> buffer, copies (also transposed), fills, single words.
.desc
.view h host i8 3x2x2 batch=12
.view x buf i8 3x2x2
.view y buf i8 3x2x2 addr=16
.view t buf i8 2x3x2 addr=32
.view y.t buf i8 3x2x2 addr=32 row=2 pix=6 chan=1     ; t with rows and columns exchanged
.view ring buf i8 5x2x2 addr=64 ring=2
.view hr host i8 5x2x2 addr=1024
.view w host i32 1x1x1 addr=512 batch=4
.view wide buf i32 2x1x2 addr=80
.view mask buf bit 2x3x3 addr=100
.view hm host bit 2x3x3 addr=600 batch=4
.view u buf u8 2x2x1 addr=120

.code
.entry load
    hld x, h, r1, all
    halt
.entry part
    hld x, h, r1, r2+1:5
    halt
.entry store
    hst h, x, r1, r2:2
    halt
.entry transpose
    cpy y.t, x, 0, all
    halt
.entry shifted
    cpy y, x, 1, 0:2
    halt
.entry outside
    cpy y, x, 1, all
    halt
.entry fills
    fill x, -5, 1:1
    fill wide, -70000, all
    fill u, 200, r1:1
    halt
.entry rings
    li r2, 0
    loopi 5
      hld ring, hr, r0, r2:1
      hst hr, ring, r0, r2:1
      addi r2, r2, 1
    endl
    halt
.entry words
    ldw r3, w, r1
    addi r3, r3, 1
    addi r1, r1, 1
    stw w, r3, r1
    halt
.entry bits
    hst hm, mask, r1, all
    fill x, 0, all
    hld mask, hm, r1, all
    halt
.entry negative
    hld x, h, r1, all
    halt

.tests
.test "a sample of the batch"
.init h [1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12] sample=2
.init_reg r1 2
.run load
.expect x [1, -2, 3, -4, 5, -6, 7, -8, 9, -10, 11, -12]
.expect_cycles 4                  ; 12 bytes at 8 a cycle, issue, halt
.expect_event host_bits_in 96
.expect_event buffer_bits_written 96

.test "rows are clipped to the view"
.init h [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
.init x [0*12]
.init_reg r2 1
.run part
.expect x [0, 0, 0, 0, 0, 0, 0, 0, 9, 10, 11, 12]
.expect_event host_bits_in 32

.test "a row range that misses the view does nothing"
.init_reg r2 7
.init x [3*12]
.run part
.expect x [3*12]
.expect_event host_bits_in 0

.test "store rows"
.init x [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
.init h [0*12] sample=1
.init_reg r1 1
.init_reg r2 1
.run store
.expect h [0, 0, 0, 0, 5, 6, 7, 8, 9, 10, 11, 12] sample=1
.expect_event host_bits_out 64

.test "transposed interpretation is a choice of strides"
.init x [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
.run transpose
.expect t [1, 2, 5, 6, 9, 10, 3, 4, 7, 8, 11, 12]

.test "copy to other rows"
.init x [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
.init y [0*12]
.run shifted
.expect y [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]

.test "copy beyond the destination"
.init x 0
.run outside
.expect_trap "out of range"

.test "fills"
.init x [0*12]
.init wide [0, 0, 0, 0]
.init u [0*4]
.init_reg r1 1
.run fills
.expect x [0, 0, 0, 0, -5, -5, -5, -5, 0, 0, 0, 0]
.expect wide [-70000, -70000, -70000, -70000]
.expect u [0, 0, 200, 200]

.test "a ring holds the last rows"
.init hr [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
.run rings
.expect ring [17, 18, 19, 20, 13, 14, 15, 16, 17, 18, 19, 20, 13, 14, 15, 16, 17, 18, 19, 20]
.expect hr [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]

.test "single words"
.init w [-8] sample=3
.init_reg r1 3
.run words
.expect w [-7] sample=4
.expect_reg r3 -7

.test "packed bits"
.init mask [1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
.init_reg r1 1
.run bits
.expect mask [1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
.expect hm [1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0] sample=1
.expect_event host_bits_out 18

.test "a negative sample number"
.init_reg r1 -1
.run negative
.expect_trap "out of range"
