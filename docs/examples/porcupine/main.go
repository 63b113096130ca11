// Checks every shard of a Troika fault run with Porcupine, a linearizability checker that is not Troika's:
//
//	troika-jepsen export runs/TEST/RUN --registers > registers.edn
//	go run . registers.edn
//
// Each register begins as nil and is set once: `:cas [nil hash]`, `:read hash`, `:read nil`.
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
	"olympos.io/encoding/edn"
)

type line struct {
	Index   int64
	Process int64
	Type    edn.Keyword
	F       edn.Keyword
	Value   any
	Key     string
}

// A call: sets `value` if nothing is set yet, or reads `value` ("" for nil).
type call struct {
	set   bool
	value string
}

var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		held, c, known := state.(string), input.(call), output.(bool)
		switch {
		case !c.set:
			return held == c.value, held
		case held == "":
			return true, c.value
		default:
			// Submitted again by the winner, or an unknown outcome that came too late to matter.
			return held == c.value || !known, held
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v", input) },
}

func parse(l line) call {
	c := call{set: l.F == "cas"}
	value := l.Value
	if c.set {
		value = value.([]any)[1]
	}
	if value != nil {
		c.value = value.(string)
	}
	return c
}

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	histories := map[string][]porcupine.Operation{}
	type caller struct {
		key     string
		process int64
	}
	open := map[caller]int{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l line
		if err := edn.Unmarshal(lines.Bytes(), &l); err != nil {
			panic(err)
		}
		who := caller{l.Key, l.Process}
		if l.Type == "invoke" {
			open[who] = len(histories[l.Key])
			// Without a completion it may take effect at any later time.
			operation := porcupine.Operation{
				ClientId: int(l.Process), Input: parse(l), Call: l.Index, Output: false, Return: math.MaxInt64,
			}
			histories[l.Key] = append(histories[l.Key], operation)
		} else {
			operation := &histories[l.Key][open[who]]
			operation.Return, operation.Output = l.Index, true
		}
	}
	started, operations, bad, unknown := time.Now(), 0, 0, 0
	for key, history := range histories {
		operations += len(history)
		switch porcupine.CheckOperationsTimeout(register, history, 20*time.Second) {
		case porcupine.Illegal:
			bad++
			fmt.Printf("register %s is not linearizable\n", key)
		case porcupine.Unknown:
			unknown++
		}
	}
	fmt.Printf("%d registers, %d operations: %d not linearizable, %d not decided in time, %.1f s\n",
		len(histories), operations, bad, unknown, time.Since(started).Seconds())
	if bad > 0 {
		os.Exit(1)
	}
}
