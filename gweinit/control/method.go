package control

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// Method is what can be called. Run gets as many arguments as there are
// Params, of their types: what the caller left out is the Default. The result is
// of one of the types int, bool, float64, string, []any, map[string]any, or nil.
// An error that is no Fault becomes one with the code Failed. ctx ends when the
// caller is gone.
type Method struct {
	Help   string // a line or two
	Result Type
	Params []Param
	Run    func(ctx context.Context, args []any) (any, error)
}

// Param is a parameter of a Method.
type Param struct {
	Name    string
	Type    Type
	Default any // what it is if left out; nil: it must not be
}

// Type is one of XML-RPC's, by the names that system.methodSignature gives.
type Type string

const (
	Int     Type = "int"
	String  Type = "string"
	Boolean Type = "boolean"
	Array   Type = "array"
	Struct  Type = "struct"
)

// Text is a parameter that is a string and has to be given.
func Text(name string) Param { return Param{Name: name, Type: String} }

// Fault is an error that the caller gets, with its code.
type Fault struct {
	Code int
	Text string
}

func (f Fault) Error() string { return f.Text }

// NewFault returns a fault with the text that Supervisor gives it, its name and
// what it is about: "BAD_NAME: x".
func NewFault(code int, about string) Fault {
	text := faultNames[code]
	if about != "" {
		text += ": " + about
	}
	return Fault{code, text}
}

// Codes of faults, those of Supervisor 4 (supervisor/xmlrpc.py).
const (
	UnknownMethod        = 1
	IncorrectParameters  = 2
	BadArguments         = 3
	SignatureUnsupported = 4
	ShutdownState        = 6
	BadName              = 10
	BadSignal            = 11
	NoFile               = 20
	NotExecutable        = 21
	Failed               = 30
	AbnormalTermination  = 40
	SpawnError           = 50
	AlreadyStarted       = 60
	NotRunning           = 70
	Success              = 80
	AlreadyAdded         = 90
	StillRunning         = 91
	CantReread           = 92
)

var faultNames = map[int]string{
	UnknownMethod:        "UNKNOWN_METHOD",
	IncorrectParameters:  "INCORRECT_PARAMETERS",
	BadArguments:         "BAD_ARGUMENTS",
	SignatureUnsupported: "SIGNATURE_UNSUPPORTED",
	ShutdownState:        "SHUTDOWN_STATE",
	BadName:              "BAD_NAME",
	BadSignal:            "BAD_SIGNAL",
	NoFile:               "NO_FILE",
	NotExecutable:        "NOT_EXECUTABLE",
	Failed:               "FAILED",
	AbnormalTermination:  "ABNORMAL_TERMINATION",
	SpawnError:           "SPAWN_ERROR",
	AlreadyStarted:       "ALREADY_STARTED",
	NotRunning:           "NOT_RUNNING",
	Success:              "SUCCESS",
	AlreadyAdded:         "ALREADY_ADDED",
	StillRunning:         "STILL_RUNNING",
	CantReread:           "CANT_REREAD",
}

// bind makes the arguments of a call those of the method.
func (m Method) bind(given []any) ([]any, error) {
	if len(given) > len(m.Params) {
		return nil, NewFault(IncorrectParameters, fmt.Sprintf("%d arguments, want %s", len(given), m.usage()))
	}
	args := make([]any, len(m.Params))
	for i, p := range m.Params {
		if i >= len(given) {
			if p.Default == nil {
				return nil, NewFault(IncorrectParameters, fmt.Sprintf("%d arguments, want %s", len(given), m.usage()))
			}
			args[i] = p.Default
			continue
		}
		arg, ok := p.Type.convert(given[i])
		if !ok {
			return nil, NewFault(IncorrectParameters, fmt.Sprintf("%s is a %T, want %s", p.Name, given[i], m.usage()))
		}
		args[i] = arg
	}
	return args, nil
}

func (m Method) usage() string {
	var b strings.Builder
	b.WriteString("(")
	for i, p := range m.Params {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", p.Type, p.Name)
		if p.Default != nil {
			fmt.Fprintf(&b, "=%v", p.Default)
		}
	}
	return b.String() + ")"
}

// convert takes what Python would take for a value of the type.
func (t Type) convert(v any) (any, bool) {
	switch t {
	case Int:
		switch v := v.(type) {
		case int:
			return v, true
		case string:
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 32)
			return int(n), err == nil
		}
	case Boolean:
		switch v := v.(type) {
		case bool:
			return v, true
		case int:
			return v != 0, true
		case string: // as "gweinit call" gives it
			b, err := strconv.ParseBool(v)
			return b, err == nil
		}
	case String:
		s, ok := v.(string)
		if n, isInt := v.(int); isInt { // the number of a signal
			return strconv.Itoa(n), true
		}
		return s, ok
	case Array:
		l, ok := v.([]any)
		return l, ok
	case Struct:
		m, ok := v.(map[string]any)
		return m, ok
	}
	return nil, false
}

// maxCalls is for system.multicall.
const maxCalls = 1000

// system returns the methods about methods, with the others.
func system(methods map[string]Method) map[string]Method {
	all := maps.Clone(methods)
	if all == nil {
		all = map[string]Method{}
	}
	find := func(name string) (Method, error) {
		m, ok := all[name]
		if !ok {
			return m, NewFault(SignatureUnsupported, name)
		}
		return m, nil
	}
	all["system.listMethods"] = Method{Help: "The names of all methods.", Result: Array, Run: func(context.Context, []any) (any, error) {
		names := []any{}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			names = append(names, name)
		}
		return names, nil
	}}
	all["system.methodHelp"] = Method{Help: "What a method does.", Result: String, Params: []Param{Text("name")}, Run: func(_ context.Context, args []any) (any, error) {
		m, err := find(args[0].(string))
		return m.Help + "\n" + m.usage(), err
	}}
	all["system.methodSignature"] = Method{Help: "The types of a method's result and parameters.", Result: Array, Params: []Param{Text("name")}, Run: func(_ context.Context, args []any) (any, error) {
		m, err := find(args[0].(string))
		types := []any{string(m.Result)}
		for _, p := range m.Params {
			types = append(types, string(p.Type))
		}
		return types, err
	}}
	all["system.multicall"] = Method{
		Help:   "Makes several calls, one after the other: structures of methodName and params. Each result is the call's, or a structure of faultCode and faultString.",
		Result: Array, Params: []Param{{Name: "calls", Type: Array}},
		Run: func(ctx context.Context, args []any) (any, error) { return multicall(ctx, all, args[0].([]any)) },
	}
	return all
}

func multicall(ctx context.Context, methods map[string]Method, calls []any) (any, error) {
	if len(calls) > maxCalls {
		return nil, NewFault(BadArguments, fmt.Sprintf("%d calls, at most %d", len(calls), maxCalls))
	}
	results := []any{}
	for _, c := range calls {
		fields, _ := c.(map[string]any)
		name, _ := fields["methodName"].(string)
		params, _ := fields["params"].([]any)
		var result any
		var err error
		switch {
		case name == "":
			err = NewFault(IncorrectParameters, "No methodName")
		case name == "system.multicall":
			err = NewFault(IncorrectParameters, "Recursive system.multicall forbidden")
		default:
			result, err = call(ctx, methods, name, params)
		}
		if err != nil {
			fault := asFault(err)
			result = map[string]any{"faultCode": fault.Code, "faultString": fault.Text}
		}
		results = append(results, result)
	}
	return results, nil
}

// panicked is the error of a method that did.
type panicked struct {
	method string
	value  any
	stack  string
}

func (p panicked) Error() string { return fmt.Sprintf("%s: panic: %v", p.method, p.value) }

// call calls a method, and makes an error of a panic: PID 1 goes on.
func call(ctx context.Context, methods map[string]Method, name string, given []any) (result any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = panicked{name, r, string(bytes.TrimSpace(debug.Stack()))}
		}
	}()
	m, ok := methods[name]
	if !ok {
		return nil, NewFault(UnknownMethod, fmt.Sprintf("%q is no method here; system.listMethods names them", name))
	}
	args, err := m.bind(given)
	if err != nil {
		return nil, err
	}
	return m.Run(ctx, args)
}

func asFault(err error) Fault {
	if fault, ok := err.(Fault); ok {
		return fault
	}
	return Fault{Failed, err.Error()}
}
