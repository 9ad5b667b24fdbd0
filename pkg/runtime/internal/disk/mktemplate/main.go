// Command mktemplate makes the filesystem templates of package disk with mke2fs:
//
//	go run ./pkg/runtime/internal/disk/mktemplate
//
// The features: a journal, because a box that is killed must keep what it
// synced; meta_bg instead of resize_inode, so that the guest can grow the
// filesystem to any size; inode tables left uninitialised, which a sparse file
// zeroes for nothing. A template is a deflate stream of records: the block
// number in 32 bits, then the block.
package main

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
)

const blockSize = 4096

func main() {
	log.SetFlags(0)
	for name, size := range map[string]int64{"64MiB": 64 << 20, "10GiB": 10 << 30} {
		if err := build(name, size); err != nil {
			log.Fatalf("mktemplate: %s: %v", name, err)
		}
	}
}

func build(name string, size int64) error {
	dir, err := os.MkdirTemp("", "mktemplate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	img := filepath.Join(dir, "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(img, size); err != nil {
		return err
	}
	cmd := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-i", "16384",
		"-O", "has_journal,^resize_inode,meta_bg,64bit,metadata_csum", "-J", "size=16",
		"-U", "6b6f786c-6974-4065-b078-6c6974656673",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0,hash_seed=626f786c-6974-4068-a073-685f73656564", img)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=0", "E2FSPROGS_FAKE_TIME=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	f, err := os.Open(img)
	if err != nil {
		return err
	}
	defer f.Close()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return err
	}
	block, zero := make([]byte, blockSize), make([]byte, blockSize)
	for n := range uint32(size / blockSize) {
		if _, err := f.ReadAt(block, int64(n)*blockSize); err != nil {
			return err
		}
		if bytes.Equal(block, zero) {
			continue
		}
		w.Write(binary.LittleEndian.AppendUint32(nil, n))
		w.Write(block)
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("pkg/runtime/internal/disk/templates", name+".flate"), out.Bytes(), 0o644)
}
