import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import org.apache.nifi.security.util.SslContextFactory;
import org.apache.nifi.security.util.StandardTlsConfiguration;
import org.apache.nifi.util.NiFiProperties;

/**
 * What a node of Apache NiFi makes of its nifi.properties and of the stores named there, by NiFi's own classes.
 * Relative paths are from the current directory, as from NiFi's home.
 *
 *   java -cp JARS Node.java describe PROPERTIES            prints the addresses, ports and flags as NiFi reads them
 *   java -cp JARS Node.java meet PROPERTIES PROPERTIES     the second calls the first by its name, each with its stores
 */
class Node {
    public static void main(String[] arguments) throws Exception {
        NiFiProperties first = properties(arguments[1]);
        if (arguments[0].equals("describe")) {
            describe(first);
        } else {
            meet(first, properties(arguments[2]));
        }
    }

    private static NiFiProperties properties(String file) {
        NiFiProperties read = NiFiProperties.createBasicNiFiProperties(Path.of(file).toString());
        read.validate();
        return read;
    }

    private static void describe(NiFiProperties node) {
        System.out.println("web " + node.getProperty(NiFiProperties.WEB_HTTPS_HOST) + ":" + node.getSslPort());
        System.out.println("site-to-site " + node.getRemoteInputHost() + ":" + node.getRemoteInputPort()
                + " secure " + node.isSiteToSiteSecure());
        System.out.println("cluster " + node.getProperty(NiFiProperties.CLUSTER_NODE_ADDRESS) + ":"
                + node.getClusterNodeProtocolPort()
                + " secure " + node.getProperty(NiFiProperties.CLUSTER_PROTOCOL_IS_SECURE));
        System.out.println("http " + node.getPort());
    }

    private static SSLContext context(NiFiProperties node) throws Exception {
        return SslContextFactory.createSslContext(StandardTlsConfiguration.fromNiFiProperties(node));
    }

    private static void meet(NiFiProperties called, NiFiProperties caller) throws Exception {
        try (SSLServerSocket server = (SSLServerSocket) context(called).getServerSocketFactory()
                .createServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            server.setNeedClientAuth(true);
            CompletableFuture<Void> answered = CompletableFuture.runAsync(() -> answer(server));
            String name = called.getProperty(NiFiProperties.WEB_HTTPS_HOST);
            InetAddress address = InetAddress.getByAddress(name, server.getInetAddress().getAddress());
            try (SSLSocket socket = (SSLSocket) context(caller).getSocketFactory()
                    .createSocket(address, server.getLocalPort())) {
                SSLParameters parameters = socket.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                socket.setSSLParameters(parameters);
                String greeting = new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
                System.out.println(greeting + ", by " + socket.getSession().getPeerPrincipal().getName());
            }
            answered.get();
        }
    }

    private static void answer(SSLServerSocket server) {
        try (SSLSocket socket = (SSLSocket) server.accept()) {
            String client = socket.getSession().getPeerPrincipal().getName();
            socket.getOutputStream().write(("hello " + client + "\n").getBytes());
        } catch (Exception refused) {
            throw new IllegalStateException(refused);
        }
    }
}
