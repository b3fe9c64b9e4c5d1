/** The page's entry point. */
import './styles/tokens.css';
import { render } from 'preact';

const root = document.getElementById('app');
if (root !== null) render(<main>Glinthawk</main>, root);
