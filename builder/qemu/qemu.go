// Package qemu runs a board's image on the board's QEMU machine.
package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/exosite/gwe/builder/board"
	"github.com/exosite/gwe/builder/uboot"
)

// Options say what to run.
type Options struct {
	Board    *board.Board
	Image    string   // the disk; the machine writes to it
	UBoot    string   // U-Boot's binary
	Memory   int      // MB; 0 is the board's own
	Snapshot bool     // what the machine writes is forgotten
	Args     []string // more arguments for QEMU: a second disk, say
	Scratch  string   // folder for the flash
}

// Command returns the QEMU command that runs the image. The flash that it
// needs is written to the scratch folder. When ctx ends, so does QEMU.
func Command(ctx context.Context, o Options) (*exec.Cmd, error) {
	m := o.Board.Machine
	memory, kernelArgs := m.Memory, ""
	if o.Memory != 0 {
		memory = o.Memory
	}
	if memory < m.MemoryMin {
		// What runs before Linux needs more: Linux is told of less.
		kernelArgs = fmt.Sprintf("mem=%dM", memory)
		memory = m.MemoryMin
		if m.Flash == nil {
			return nil, fmt.Errorf("board %s has at least %d MB", o.Board.Name, memory)
		}
	}
	qemu, err := exec.LookPath(strings.Fields(m.Command[0])[0])
	if err != nil {
		return nil, fmt.Errorf("%w: make board=%s setup (or apt-get install %s)", err, o.Board.Name, strings.Join(m.Packages, " "))
	}
	for _, file := range []string{o.Image, o.UBoot} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("%w: build it first: make board=%s image", err, o.Board.Name)
		}
	}
	flash := filepath.Join(o.Scratch, "flash.img")
	if m.Flash != nil {
		env := map[string]string{}
		if kernelArgs != "" {
			env["gwe_args"] = kernelArgs
		}
		if err := uboot.WriteFlash(ctx, o.Board, o.UBoot, env, flash); err != nil {
			return nil, err
		}
	}
	values := map[string]string{"{image}": o.Image, "{flash}": flash, "{uboot}": o.UBoot, "{memory}": strconv.Itoa(memory)}
	argv := []string{qemu}
	for _, word := range strings.Fields(strings.Join(m.Command, " "))[1:] {
		if value, whole := values[word]; whole {
			word = value
		}
		for name, value := range values { // in a list of options commas separate
			word = strings.ReplaceAll(word, name, strings.ReplaceAll(value, ",", ",,"))
		}
		argv = append(argv, word)
	}
	if o.Snapshot {
		argv = append(argv, "-snapshot")
	}
	argv = append(argv, o.Args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// No machine outlives the builder.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // QEMU gives the terminal back
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// Machine is a running machine whose console a program reads and types on.
type Machine struct {
	*Console
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}
	err   error
}

// Start starts the machine. Everything the console prints also goes to echo,
// unless nil.
func Start(ctx context.Context, o Options, echo io.Writer) (*Machine, error) {
	cmd, err := Command(ctx, o)
	if err != nil {
		return nil, err
	}
	m := &Machine{Console: NewConsole(echo), cmd: cmd, ended: make(chan struct{})}
	// What QEMU itself says would be in the middle of the console's lines. It
	// matters when QEMU cannot go on.
	var complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = m.Console, &complaints
	if m.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd, err)
	}
	go func() {
		if m.err = cmd.Wait(); m.err != nil {
			m.Console.Write(complaints.Bytes())
		}
		m.Console.Close()
		close(m.ended)
	}()
	return m, nil
}

// Write types on the console.
func (m *Machine) Write(keys []byte) (int, error) { return m.stdin.Write(keys) }

// Ended is closed when QEMU has ended: the machine has been powered off.
func (m *Machine) Ended() <-chan struct{} { return m.ended }

// Kill cuts the power.
func (m *Machine) Kill() {
	m.cmd.Process.Kill()
	<-m.ended
}
