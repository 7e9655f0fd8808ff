// Command hello-go is an app in Go: it logs the free memory of the gateway
// every ten seconds, and ends in good order when it is asked to.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("hello from Go")
	for {
		var info syscall.Sysinfo_t
		if err := syscall.Sysinfo(&info); err != nil {
			fmt.Fprintln(os.Stderr, "hello-go: ask the kernel for the memory:", err)
			os.Exit(1)
		}
		fmt.Printf("%d MB free\n", uint64(info.Freeram)*uint64(info.Unit)>>20)
		select {
		case <-time.After(10 * time.Second):
		case <-stop:
			fmt.Println("goodbye")
			return
		}
	}
}
