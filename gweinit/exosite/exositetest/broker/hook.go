package broker

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// version is MQTT 3.1.1's, in CONNECT.
const version = 4

// The topics of the API.
const (
	resourceTopic  = "$resource/"
	batchTopic     = "$resource.batch"
	provisionTopic = "$provision/"
)

// hook is what the library asks. Topics and client IDs are those of one device
// only: inside they begin with its name.
type hook struct {
	mqtt.HookBase
	cloud   *cloud.Cloud
	product string
	log     *slog.Logger
	server  *mqtt.Server

	mu       sync.Mutex
	sessions map[*mqtt.Client]*session
}

// session is a connection that has been let in.
type session struct {
	device  *cloud.Device // nil: nobody, who can be provisioned
	product string
	token   string
	cert    []byte // SHA-256
	space   string // what its topics and its client ID begin with
}

func (h *hook) ID() string         { return "exosite" }
func (h *hook) Provides(byte) bool { return true } // what is not below does nothing

// OnConnect refuses other versions of MQTT.
func (h *hook) OnConnect(c *mqtt.Client, pk packets.Packet) error {
	if pk.ProtocolVersion != version {
		h.refused(c, "MQTT version "+strconv.Itoa(int(pk.ProtocolVersion))+", want 4, which is 3.1.1")
		h.server.SendConnack(c, packets.ErrUnsupportedProtocolVersion, false, nil)
		return packets.ErrUnsupportedProtocolVersion
	}
	return nil
}

// OnConnectAuthenticate finds out whose session it is.
func (h *hook) OnConnectAuthenticate(c *mqtt.Client, pk packets.Packet) bool {
	s := &session{product: productOf(c.Net.Conn, h.cloud, h.product), token: string(pk.Connect.Password), cert: certificateOf(c)}
	var ok bool
	switch {
	case len(pk.Connect.Username) > 0:
		h.refused(c, "a user name, want an empty one")
		return false
	case s.token != "":
		if s.device, ok = h.cloud.ByCIK(s.token); !ok {
			h.refused(c, "the password is not the token of a device")
			return false
		}
	case s.cert != nil:
		s.device, _ = h.cloud.ByCertificate(s.cert) // not provisioned yet: nobody
	}
	if s.device != nil && s.device.Product() != s.product {
		// A device's own product, unless the server's name is that of another one.
		if s.product != h.product {
			h.refused(c, "the device is not one of product "+s.product)
			return false
		}
		s.product = s.device.Product()
	}
	if s.device != nil {
		s.space = spaceOf(s.device.Product(), s.device.SN())
	} else {
		s.space = "nobody/" + c.Net.Remote + "/"
	}
	c.ID = s.space + c.ID
	c.Properties.Will = mqtt.Will{}
	h.mu.Lock()
	h.sessions[c] = s
	h.mu.Unlock()
	h.log.Info("MQTT session", "from", c.Net.Remote, "product", s.product, "serial", s.serial())
	return true
}

// spaceOf is what the topics of a device begin with, and has no character that
// means something in topics.
func spaceOf(product, sn string) string {
	return "device/" + hex.EncodeToString([]byte(product+"\x00"+sn)) + "/"
}

func (s *session) serial() string {
	if s.device == nil {
		return ""
	}
	return s.device.SN()
}

func certificateOf(c *mqtt.Client) []byte {
	t, ok := c.Net.Conn.(*tls.Conn)
	if !ok || len(t.ConnectionState().PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(t.ConnectionState().PeerCertificates[0].Raw)
	return sum[:]
}

func (h *hook) of(c *mqtt.Client) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[c]
}

// refused tells the developer of a client why its session ends.
func (h *hook) refused(c *mqtt.Client, why string) {
	h.log.Warn("MQTT session refused", "from", c.Net.Remote, "why", why)
}

// OnSessionEstablished makes the subscription that each device has.
func (h *hook) OnSessionEstablished(c *mqtt.Client, _ packets.Packet) {
	s := h.of(c)
	if s.device == nil {
		return
	}
	own := packets.Subscription{Filter: s.space + resourceTopic + "#", Qos: 1}
	if _, ok := c.State.Subscriptions.Get(own.Filter); !ok {
		h.server.Topics.Subscribe(c.ID, own)
		c.State.Subscriptions.Add(own.Filter, own)
	}
}

func (h *hook) OnDisconnect(c *mqtt.Client, err error, _ bool) {
	h.mu.Lock()
	s := h.sessions[c]
	delete(h.sessions, c)
	h.mu.Unlock()
	if s != nil {
		h.log.Info("MQTT session ended", "from", c.Net.Remote, "product", s.product, "serial", s.serial())
	}
}

// OnACLCheck lets all be published and got: topics are the session's own.
func (h *hook) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func (h *hook) OnSubscribe(c *mqtt.Client, pk packets.Packet) packets.Packet {
	return h.inSpace(c, pk)
}

func (h *hook) OnUnsubscribe(c *mqtt.Client, pk packets.Packet) packets.Packet {
	return h.inSpace(c, pk)
}

func (h *hook) inSpace(c *mqtt.Client, pk packets.Packet) packets.Packet {
	s := h.of(c)
	for i := range pk.Filters {
		pk.Filters[i].Filter = s.space + pk.Filters[i].Filter
	}
	return pk
}

// OnPacketEncode takes the space out of the topics that clients see.
func (h *hook) OnPacketEncode(c *mqtt.Client, pk packets.Packet) packets.Packet {
	if s := h.of(c); s != nil && pk.FixedHeader.Type == packets.Publish {
		pk.TopicName = strings.TrimPrefix(pk.TopicName, s.space)
	}
	return pk
}

// OnPublish does what a message asks for. It goes to nobody.
func (h *hook) OnPublish(c *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if c.Net.Inline {
		return pk, nil // ours
	}
	if err := h.published(c, pk); err != nil {
		h.refused(c, err.Error())
		c.Stop(err)
		return pk, packets.ErrRejectPacket // no PUBACK
	}
	return pk, packets.CodeSuccessIgnore
}

func (h *hook) published(c *mqtt.Client, pk packets.Packet) error {
	s := h.of(c)
	identity, provision := strings.CutPrefix(pk.TopicName, provisionTopic)
	alias, write := strings.CutPrefix(pk.TopicName, resourceTopic)
	switch {
	case s == nil:
		return errors.New("it has ended")
	case pk.FixedHeader.Qos > 1:
		return errors.New("QoS 2, want 0 or 1")
	case provision:
		return h.provision(c, s, identity, pk.TopicName)
	case s.device == nil:
		return errors.New("a session without a credential can publish to " + provisionTopic + "<identity> only, not to " + strconv.Quote(pk.TopicName))
	case pk.TopicName == batchTopic:
		return h.record(c, s, pk.Payload)
	case write && alias != "" && !strings.Contains(alias, "/"):
		_, err := s.device.Write(cloud.Value{Alias: alias, Value: string(pk.Payload)})
		return err
	}
	return errors.New("topic " + strconv.Quote(pk.TopicName) + ", want " + resourceTopic + "<alias> or " + batchTopic)
}

// provision activates a device, and tells it its token whether it has subscribed
// or not.
func (h *hook) provision(c *mqtt.Client, s *session, identity, topic string) error {
	if s.device != nil {
		return errors.New("provisioning in a session with a credential")
	}
	token, err := h.cloud.Activate(s.product, identity, c.Net.Remote, s.cert)
	if err != nil {
		return err
	}
	h.log.Info("provisioned by MQTT", "from", c.Net.Remote, "product", s.product, "serial", identity)
	return c.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: topic, Payload: []byte(token),
	})
}

func (h *hook) record(c *mqtt.Client, s *session, payload []byte) error {
	points, err := parseBatch(payload)
	if err != nil {
		return err
	}
	clashes, err := s.device.Record(points...)
	for _, p := range clashes {
		h.log.Warn("a point of a batch clashes and is left out", "from", c.Net.Remote, "product", s.product, "serial", s.serial(), "alias", p.Alias, "time", p.Time)
	}
	return err
}

// changed is called with what changes in the cloud.
func (h *hook) changed(e cloud.Event) {
	switch {
	case e.Kind == cloud.ValueChanged && e.Set:
		topic := spaceOf(e.Product, e.SN) + resourceTopic + e.Alias + "/" + strconv.FormatInt(e.Time.UnixMicro(), 10)
		if err := h.server.Publish(topic, []byte(e.Value), false, 1); err != nil {
			h.log.Error("push by MQTT", "product", e.Product, "serial", e.SN, "alias", e.Alias, "error", err)
		}
	case e.Kind == cloud.DeviceChanged, e.Kind == cloud.ProductChanged:
		h.endInvalid(e)
	}
}

// endInvalid ends sessions whose credential is no longer valid.
func (h *hook) endInvalid(e cloud.Event) {
	var over []*mqtt.Client
	h.mu.Lock()
	for c, s := range h.sessions {
		if s.device != nil && s.device.Product() == e.Product && (e.SN == "" || s.device.SN() == e.SN) && !h.valid(s) {
			over = append(over, c)
		}
	}
	h.mu.Unlock()
	for _, c := range over {
		h.refused(c, "its credential is no longer valid")
		c.Stop(packets.ErrNotAuthorized)
	}
}

func (h *hook) valid(s *session) bool {
	d, ok := h.cloud.ByCIK(s.token)
	if s.token == "" {
		d, ok = h.cloud.ByCertificate(s.cert)
	}
	return ok && d.Product() == s.device.Product() && d.SN() == s.device.SN()
}
